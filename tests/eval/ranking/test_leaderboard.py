"""The leaderboard: grouping, pairing, ranking, what is refused or named, and that it is rebuilt the same."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from helpers.eval_study import ARMS, CLAIMS, run
from helpers.runs_in_memory import board_of, metric, plain
from ovi_eval.errors import UserError
from ovi_eval.ranking.columns import grouped
from ovi_eval.ranking.comparison import compare
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.report import write_all
from ovi_eval.report.html.page import page
from ovi_eval.report.markdown import markdown
from ovi_eval.report.terminal import show
from ovi_eval.results.files import ClipScores, MetricValue
from ovi_eval.results.reading import read


def test_arms_are_grouped_with_their_seeds_and_references_apart(board):
    assert [row.name for row in board.arms] == list(ARMS)
    assert all(row.seeds == [0, 1, 2] for row in board.arms)
    assert [row.name for row in board.references] == ["real", "real_shifted_150ms", "real_shuffled"]
    assert [c.id for c in board.columns] == [
        "ball/onset_f1",
        "ball/onset_offset_ms",
        "ball/agreement_vague",
        "ball/frechet_video",
        "loss/val_loss_audio",
    ]
    assert list(grouped(board.columns, "group")) == ["ball/onset", "ball/agreement", "ball/frechet", "losses"]


def test_means_intervals_and_differences_are_those_of_the_runs(board):
    runs = {(name, seed): run(name, seed) for name in ARMS for seed in (0, 1, 2)}
    values = {name: [runs[name, s].metrics["ball/frechet_video"].value for s in (0, 1, 2)] for name in ARMS}
    cell = board.arms[1].cells["ball/frechet_video"]
    assert cell.value == pytest.approx(np.mean(values["bidirectional_unscaled"]))
    low, high = stats.t.interval(0.95, 2, np.mean(values["none"]), stats.sem(values["none"]))
    interval = board.arms[2].cells["ball/frechet_video"].interval
    assert (interval.low, interval.high) == pytest.approx((low, high))
    raw = [stats.ttest_rel(values[n], values["bidirectional_scaled"]).pvalue for n in list(ARMS)[1:]]
    versus = [row.cells["ball/frechet_video"].versus_first for row in board.arms[1:]]
    assert [v.difference.test.p for v in versus] == pytest.approx(raw)
    least, most = sorted(raw)
    assert sorted(v.p_adjusted for v in versus) == pytest.approx([2 * least, max(2 * least, most)])
    assert all(v.verdict == "worse" for v in versus)
    assert board.arms[0].cells["ball/frechet_video"].versus_first is None


def test_metrics_with_clips_are_tested_over_clips_and_the_test_is_stated(board):
    versus = board.arms[2].cells["ball/onset_f1"].versus_first
    assert "sign-flip permutation over clips" in versus.difference.test.name
    assert versus.difference.n_clips == 40
    assert versus.difference.n_seeds == 3
    assert board.arms[2].cells["ball/agreement_vague"].versus_first.difference.n_clips == 20
    own, first = (
        np.mean([np.mean(list(run(name, s).per_clip("ball/onset_f1").values())) for s in (0, 1, 2)])
        for name in ("none", "bidirectional_scaled")
    )
    assert versus.difference.value == pytest.approx(own - first)
    loss = board.arms[2].cells["loss/val_loss_audio"].versus_first.difference
    assert "paired t over seeds" in loss.test.name
    assert loss.n_clips is None
    assert board.references[0].cells["ball/onset_f1"].interval.method == "bca bootstrap over clips"


def test_references_are_never_ranked_nor_compared(board):
    assert sorted(row.cells["ball/onset_f1"].rank for row in board.arms) == [1, 2, 3]
    assert board.arms[0].cells["ball/onset_f1"].rank == 1
    assert board.arms[0].cells["ball/frechet_video"].rank == 1
    for row in board.references:
        assert all(cell.rank is None and cell.versus_first is None for cell in row.cells.values())


def test_first_and_order_are_the_callers(study):
    board = build_leaderboard([study], first="none", order=["none", "bidirectional_unscaled"])
    assert [row.name for row in board.arms] == ["none", "bidirectional_unscaled", "bidirectional_scaled"]
    versus = board.arms[2].cells["ball/onset_f1"].versus_first
    assert versus.arm == "none"
    assert versus.verdict == "better"
    assert board.arms[2].cells["ball/onset_offset_ms"].versus_first.verdict == "better"


def test_missing_runs_are_named_and_the_rest_is_shown(study, tmp_path):
    study = shutil.copytree(study, tmp_path / "study")
    (study / "none" / "seed_1" / "results.json").unlink()
    (study / "none" / "seed_2" / "results.json").write_text("{")
    expected = [(name, seed) for name in ARMS for seed in (0, 1, 2, 3)]
    board = build_leaderboard([study], expected=expected)
    assert board.arms[2].seeds == [0]
    assert [p.split(":")[0] for p in board.problems] == [
        "none/seed_1",
        "none/seed_2",
        "bidirectional_scaled, seed 3",
        "bidirectional_unscaled, seed 3",
        "none, seed 3",
    ]
    assert "none/seed_1: not finished" in markdown(board)
    assert board.arms[2].cells["loss/val_loss_audio"].versus_first.difference.test.p is None


def test_no_run_two_of_a_name_and_an_unknown_first_are_refused(study, tmp_path):
    with pytest.raises(UserError, match="no finished run of any arm"):
        build_leaderboard([study / "references"])
    with pytest.raises(UserError, match="none, seed 0 was found twice"):
        board_of(run("none", 0), run("none", 0))
    with pytest.raises(
        UserError, match="no arm is named 'bidirectional_scale'; did you mean bidirectional_scaled"
    ):
        build_leaderboard([study], first="bidirectional_scale")
    folder = run("mine", None).write(tmp_path).parent
    with pytest.raises(UserError, match="a leaderboard must not replace"):
        write_all(build_leaderboard([study]), folder)


def width_of(png):
    return int.from_bytes(png.read_bytes()[16:20], "big")


@pytest.mark.slow
def test_it_is_written_whole_and_rebuilt_from_disk_as_it_was(study, tmp_path):
    study = shutil.copytree(study, tmp_path / "study")
    order = ["none", *list(ARMS)[:2]]
    write_all(build_leaderboard([study], "none", "Fusion", "Why.", order=order, claims=CLAIMS), study)
    first = json.loads((study / "results.json").read_text())
    assert first["schema"] == "ovi_eval.leaderboard/1"
    assert not [p for p in study.iterdir() if p.name.startswith(".")]
    whole = width_of(study / "figure.png")
    write_all(build_leaderboard([study]), study, drawn=["ball/onset_f1", "m/none"])
    assert 2 * width_of(study / "figure.png") < whole
    assert json.loads((study / "results.json").read_text())["columns"] == first["columns"]
    again = json.loads(json.dumps(build_leaderboard([study]).to_dict()))
    first.pop("created"), again.pop("created")
    assert again == first
    assert again["study"]["order"] == ["none", "bidirectional_scaled", "bidirectional_unscaled"]
    assert [f["outcome"] for f in again["findings"]] == ["supported", "supported"]


def test_other_arms_change_no_number(study, board):
    alone = build_leaderboard([study / "none", study / "bidirectional_scaled"], first="bidirectional_scaled")
    (one,) = (row.cells["ball/onset_f1"] for row in alone.arms if row.name == "none")
    (other,) = (row.cells["ball/onset_f1"] for row in board.arms if row.name == "none")
    assert one.versus_first.difference == other.versus_first.difference


def test_terminal_fits_100_columns_and_shows_every_column(board):
    console = Console(width=180, record=True, file=io.StringIO())
    show(board, console)
    lines = console.export_text().split("\n")
    assert max(len(line.rstrip()) for line in lines) <= 100
    text = "\n".join(lines)
    assert "p < 0.001" in text
    for name in (
        "onset_f1 ↑",
        "onset_offset_ms ↓",
        "frechet_video ↓",
        "val_loss_audio ↓",
        "real_shifted_150ms",
    ):
        assert name in text
    assert "supported: Scaled RoPE carries when" in text


def test_names_from_files_are_no_markup_on_the_terminal():
    console = Console(width=100, record=True, file=io.StringIO())
    show(board_of(plain("[red]a[/red]", 0, 0.5), plain("[/]", 0, 0.4)), console)
    text = console.export_text()
    assert "[red]a[/red]" in text
    assert "[/]" in text


def judged(name, values, **fields):
    """A run whose clips have these values, None where one could not be judged."""
    have = [value for value in values if value is not None]
    made = MetricValue(float(np.mean(have)), len(have), "higher", len(have) / len(values), **fields)
    clips = [ClipScores(f"c{i}", {"m/score": value}) for i, value in enumerate(values)]
    return run(name, None, n_clips=len(values), clips=clips, losses={}, metrics={"m/score": made})


@pytest.mark.parametrize(
    ("values", "partial"),
    [
        ([0.9] * 10 + [None] * 20, True),  # could be judged on a third
        ([0.9] * 10, True),  # handed in a third
        ([0.9] * 28 + [None] * 2, False),
        ([0.9] * 30, False),
    ],
)
def test_a_model_judged_on_far_fewer_clips_is_marked_and_not_ranked(values, partial):
    board = board_of(judged("few", values), judged("all", [0.9] * 10 + [0.4] * 20))
    few, everything = (row.cells["m/score"] for row in board.arms)
    assert (few.partial, few.rank) == ((True, None) if partial else (False, 1))
    assert (everything.partial, everything.rank) == (False, 1 if partial else 2)
    out = io.StringIO()
    show(board, Console(file=out, width=100))
    for text in (out.getvalue(), markdown(board)):
        assert ("0.900†" in text) == partial
        assert "coverage 100 %" in text
        assert ("† of far fewer clips than the others" in " ".join(text.split())) == partial
    assert ("**0.900**" in markdown(board)) != partial
    assert ("0.900†" in page(board)) == partial
    assert board.to_dict()["arms"][0]["metrics"]["m/score"]["partial"] == partial


@pytest.mark.parametrize(
    ("direction", "real", "shuffled", "beyond"),
    [
        ("higher", metric(0.8, ci95=(0.7, 0.9)), metric(0.3), {0.91}),
        ("lower", metric(0.3, ci95=(0.2, 0.4)), metric(0.8), {0.1}),
        ("lower", metric(0.1), metric(0.1), set()),
        ("closer_to_reference", metric(0.5), metric(0.5), set()),
    ],
)
def test_a_value_beyond_the_references_is_marked_and_ranked(direction, real, shuffled, beyond):
    values = (0.1, 0.85, 0.91)
    of_arms = [plain(f"arm {value}", None, value, direction=direction) for value in values]
    of_references = [
        run(
            name,
            None,
            kind="reference",
            clips=(),
            losses={},
            metrics={"m/score": replace(m, direction=direction)},
        )
        for name, m in (("real", real), ("real_shuffled", shuffled))
    ]
    board = board_of(*of_arms, *of_references)
    cells = [row.cells["m/score"] for row in board.arms]
    assert {cell.value for cell in cells if cell.beyond_references} == beyond
    assert all(cell.rank is not None for cell in cells)
    out = io.StringIO()
    show(board, Console(file=out, width=100))
    for text in (out.getvalue(), markdown(board), page(board)):
        assert ("‡ beyond what the reference clips reach" in " ".join(text.split())) == bool(beyond)
    assert [
        cell["beyond_references"] for cell in (r["metrics"]["m/score"] for r in board.to_dict()["arms"])
    ] == [value in beyond for value in values]


def test_a_history_that_the_configuration_does_not_tell_stands_in_the_row(tmp_path):
    grown = "lengthened at step 4: 4 → 8 steps"
    runs = [replace(plain(name, seed, 0.5 + seed / 10), lineage=lines) for name, seed, lines in (
        ("one", 0, [grown]), ("one", 1, []), ("all", 0, [grown]), ("all", 1, [grown]), ("none", 0, []),
    )]  # fmt: skip
    stored = [read(run.write(tmp_path / f"{place}.json")) for place, run in enumerate(runs)]
    assert [run.lineage for run in stored] == [tuple(run.lineage) for run in runs]
    board = board_of(*stored)
    assert [row.lineage for row in board.arms] == [[f"seed 0: {grown}"], [grown], []]
    assert [run["lineage"] for run in board.to_dict()["arms"][0]["runs"]] == [[grown], []]
    printed = io.StringIO()
    show(board, Console(file=printed, width=100))
    assert f'<small class="lineage">seed 0: {grown}</small>' in page(board)
    assert f"| all<br>{grown} |" in markdown(board)
    assert printed.getvalue().count("lengthened at step") == 2
    found = compare([tmp_path / "2.json", tmp_path / "3.json"], [tmp_path / "4.json"])
    assert f"all: {grown}" in found.notes


def test_references_stand_once_and_titles_beside_raw_names(board):
    console = Console(width=100, record=True, file=io.StringIO())
    show(board, console)
    text = console.export_text()
    for shown in (text, markdown(board)):
        assert shown.count("real_shuffled") == 1
        assert "Onset F1 within" in shown
    assert "| Onset F1 within 75 ms ↑<br>ball/onset_f1 |" in markdown(board)
    assert "| Offset to the nearest onset ↓ (ms)<br>ball/onset_offset_ms |" in markdown(board)


def test_copies_of_clips_do_not_make_a_number_surer():
    rng = np.random.default_rng(0)
    values = {name: rng.random(8) for name in ("a", "b")}

    def runs(copies):
        for name, own in values.items():
            clips = [
                ClipScores(f"c{i}_{k}", {"m/score": float(v)}, same_as=f"c{i}_0" if k else None)
                for i, v in enumerate(own)
                for k in range(copies)
            ]
            score = metric(float(own.mean()))
            yield run(name, None, n_clips=len(clips), clips=clips, losses={}, metrics={"m/score": score})

    (a, b), (a4, b4) = ([row.cells["m/score"] for row in board_of(*runs(copies)).arms] for copies in (1, 4))
    assert a4.value == pytest.approx(a.value)
    assert (a4.interval.low, a4.interval.high) == pytest.approx((a.interval.low, a.interval.high))
    assert a4.interval.n == 8
    alone, copied = b.versus_first.difference, b4.versus_first.difference
    assert copied.n_clips == alone.n_clips == 8
    assert copied.test.p == alone.test.p
    ends = (alone.interval.low, alone.interval.high)
    assert (copied.interval.low, copied.interval.high) == pytest.approx(ends)
