"""Two models side by side: pairing, tests, what is refused by name, and what is printed and written."""

import argparse
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from helpers.eval_study import run, write_study
from helpers.runs_in_memory import board_of
from ovi_eval.cli import main
from ovi_eval.commands import compare as compare_command
from ovi_eval.errors import UserError
from ovi_eval.ranking.comparison import Comparison, compare
from ovi_eval.report.comparison import VERDICTS, markdown, show
from ovi_eval.results.files import ClipScores, MetricValue
from ovi_eval.stats.differences import holm, sign_flip_test

GOOD, BAD = "bidirectional_scaled", "none"


def a_set(value: float | None, **fields) -> MetricValue:
    made = {"kind": "frechet", "direction": "lower", **fields}
    return MetricValue(value, made.pop("n", 40), made.pop("direction"), **made)


def written(folder: Path, name: str, seed: int | None = None, **fields) -> Path:
    """Results of one run without values per clip."""
    made = run(name, seed, **{"clips": (), "losses": {}, **fields})
    return made.write(folder / f"{name}_{'none' if seed is None else seed}.json")


def printed(comparison: Comparison) -> str:
    console = Console(width=180, record=True, file=io.StringIO())
    show(comparison, console)
    return console.export_text()


def command(*words: str) -> None:
    compare_command.add_arguments(parser := argparse.ArgumentParser())
    compare_command.run(parser.parse_args(list(map(str, words))))


def seeds_of(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}_{seed}.json" for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    for name in (GOOD, BAD):
        for seed, path in enumerate(seeds_of(folder, name)):
            run(name, seed).write(path)
    return folder


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return compare(seeds_of(folder, GOOD), seeds_of(folder, BAD))


def test_clips_are_paired_by_id_and_seed(comparison: Comparison) -> None:
    entry = {entry.column.id: entry for entry in comparison.entries}["ball/onset_f1"]
    a, b = ([run(name, s).per_clip("ball/onset_f1") for s in (0, 1, 2)] for name in (GOOD, BAD))
    d_SN = np.array([[of_a[clip] - of_b[clip] for clip in of_a] for of_a, of_b in zip(a, b, strict=True)])
    assert entry.difference.value == pytest.approx(d_SN.mean(), rel=1e-12)
    assert entry.a - entry.b == pytest.approx(entry.difference.value, rel=1e-12)
    assert (entry.difference.n_clips, entry.difference.n_seeds) == (40, 3)
    expected = sign_flip_test(d_SN.mean(axis=0), np.random.default_rng(5)).p
    assert entry.difference.test.p == pytest.approx(expected, abs=1e-3)
    assert entry.difference.interval.low < 0.65 < entry.difference.interval.high
    assert entry.verdict == "a_better"


def test_p_values_are_adjusted_over_all_metrics(comparison: Comparison) -> None:
    raw = [entry.difference.test.p for entry in comparison.entries]
    assert [entry.p_adjusted for entry in comparison.entries] == pytest.approx(holm(raw))
    assert len(raw) == 5


def test_numbers_are_those_of_the_leaderboard(comparison: Comparison) -> None:
    row = board_of(*(run(name, seed) for name in (BAD, GOOD) for seed in (0, 1, 2)), first=BAD).arms[1]
    better = {"better": "a_better", "worse": "b_better"}
    for entry in comparison.entries:
        versus = row.cells[entry.column.id].versus_first
        assert entry.difference == versus.difference
        assert entry.verdict == better.get(versus.verdict, versus.verdict)
        assert (entry.whole_a, row.name) == (row.cells[entry.column.id].value, GOOD)


def test_the_other_way_round_every_sign_and_verdict_turns(folder: Path, comparison: Comparison) -> None:
    turned = {"a_better": "b_better", "b_better": "a_better", "no_difference": "no_difference"}
    again = compare(seeds_of(folder, BAD), seeds_of(folder, GOOD))
    for there, back in zip(comparison.entries, again.entries, strict=True):
        assert back.difference.value == pytest.approx(-there.difference.value)
        assert back.difference.test.p == pytest.approx(there.difference.test.p, abs=2e-3)
        assert back.verdict == turned[there.verdict]


def test_a_run_against_itself_shows_no_difference(folder: Path) -> None:
    same = compare(folder / f"{BAD}_0.json", folder / f"{BAD}_0.json")
    assert {entry.difference.value for entry in same.entries} == {0.0}
    assert {entry.verdict for entry in same.entries} == {"no_difference", "not_tested"}
    assert (same.a.label, same.b.label) == ("none (first)", "none (second)")
    apart = compare(folder / f"{BAD}_0.json", folder / f"{BAD}_1.json")
    assert apart.a.label == f"none ({folder.name}/none_0.json)"


def test_only_clips_that_both_have_count_and_the_others_are_told(tmp_path: Path) -> None:
    values = {"a": {"x": 1.0, "y": 0.0, "z": 1.0, "only_a": 0.0}, "b": {"x": 0.5, "y": 0.0, "z": 0.0}}
    paths = []
    for name, of_clip in values.items():
        clips = [ClipScores(clip, {"m": value}) for clip, value in of_clip.items()]
        metrics = {"m": MetricValue(float(np.mean(list(of_clip.values()))), len(clips), "higher")}
        paths.append(written(tmp_path, name, clips=clips, metrics=metrics))
    entry = compare(*paths).entries[0]
    assert (entry.a, entry.b, entry.whole_a) == (pytest.approx(2 / 3), pytest.approx(1 / 6), 0.5)
    assert entry.difference.value == pytest.approx(0.5)
    assert entry.difference.n_clips == entry.difference.test.n == 3
    assert entry.notes == ["1 clips of a have no partner and are left out"]


def test_single_sets_are_compared_by_their_own_intervals(tmp_path: Path) -> None:
    paths = []
    for name, value, ci95, isc in (("a", 100.0, (95.0, 105.0), 3.0), ("b", 120.0, (110.0, 130.0), 2.0)):
        metrics = {"fvd": a_set(value, ci95=ci95), "is": a_set(isc, direction="higher", kind="set")}
        paths.append(written(tmp_path, name, metrics=metrics))
    fvd, inception = compare(*paths).entries
    half = np.hypot(5.0, 10.0)
    assert (fvd.difference.interval.low, fvd.difference.interval.high) == pytest.approx(
        (-20 - half, -20 + half)
    )
    assert fvd.verdict == "a_better"
    assert any("taken as independent" in note for note in fvd.notes)
    tested = (inception.difference.value, inception.difference.test.p, inception.verdict)
    assert tested == (1.0, None, "not_tested")
    assert any("nothing says how sure" in note for note in inception.notes)
    assert fvd.p_adjusted == fvd.difference.test.p  # a difference that was not tested is no comparison more


def test_seeds_that_are_not_the_same_are_not_paired(tmp_path: Path) -> None:
    a = [written(tmp_path, "a", s, metrics={"fvd": a_set(v)}) for s, v in ((0, 4.0), (1, 4.4), (2, 3.9))]
    b = [written(tmp_path, "b", s, metrics={"fvd": a_set(v)}) for s, v in ((7, 9.0), (8, 9.1))]
    entry = compare(a, b).entries[0]
    expected = stats.ttest_ind([4.0, 4.4, 3.9], [9.0, 9.1], equal_var=False)
    assert entry.difference.test.p == pytest.approx(expected.pvalue)
    assert (entry.a, entry.b) == (pytest.approx(4.1), pytest.approx(9.05))


@pytest.mark.parametrize(
    ("of_a", "of_b", "reason"),
    [
        (
            {"variant": "stylegan-v"},
            {"variant": "videogpt"},
            "variant is 'stylegan-v' in a and 'videogpt' in b; score both in the same way",
        ),
        (
            {"version": "1"},
            {"version": "2", "variant": "x"},
            "version is '1' in a and '2' in b, variant is not named in a and 'x' in b; score both in the same way",
        ),
        (
            {"benchmark": "Verse-Bench"},
            {"benchmark": "JavisBench"},
            "benchmark is 'Verse-Bench' in a and 'JavisBench' in b; score both in the same way",
        ),
        (
            {"comparable": False},
            {},
            "the value of a is of a part of the clips and not comparable; score all clips",
        ),
        (
            {"comparable": False},
            {"comparable": False},
            "the value of a and of b is of a part of the clips and not comparable; score all clips",
        ),
        ({}, None, "only a has it"),
        (None, {}, "only b has it"),
        ({}, {"value": None, "n": 0}, "no clip of b could be scored"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name_and_the_rest_is_compared(
    tmp_path: Path, of_a: dict | None, of_b: dict | None, reason: str
) -> None:
    """`of_a`, `of_b`: fields of the sides' FVD and the benchmark of their run; None for a side without FVD."""

    def sides(**losses: dict[str, float]) -> list[Path]:
        paths = []
        for name, fields in (("a", of_a), ("b", of_b)):
            made = {"value": 1.0, **(fields or {})}
            benchmark = made.pop("benchmark", "")
            metrics = {} if fields is None else {"fvd": a_set(**made)}
            own = losses.get(name, {})
            paths.append(written(tmp_path, name, metrics=metrics, benchmark=benchmark, losses=own))
        return paths

    with pytest.raises(UserError) as caught:
        compare(*sides())
    assert str(caught.value) == f"a and b: nothing can be compared: fvd: {reason}"
    found = compare(*sides(a={"val": 0.5}, b={"val": 0.4}))
    assert [(refusal.metric, refusal.reason) for refusal in found.refusals] == [("fvd", reason)]
    assert [entry.column.id for entry in found.entries] == ["loss/val"]
    assert f"! fvd: {reason}" in " ".join(printed(found).split())
    assert "## Not compared" in markdown(found)


def test_of_two_benchmarks_the_one_in_common_is_compared(tmp_path: Path) -> None:
    one, two = ({"fvd": a_set(v, ci95=(v - 1, v + 1))} for v in (10.0, 20.0))
    a = [
        written(tmp_path / "x", "a", metrics=one, benchmark="X"),
        written(tmp_path / "y", "a", metrics=two, benchmark="Y"),
    ]
    b = written(tmp_path, "b", metrics=two, benchmark="X")
    found = compare(a, b)
    assert [(e.column.id, e.difference.value) for e in found.entries] == [("fvd on X", -10.0)]
    assert [(r.metric, r.reason) for r in found.refusals] == [("fvd on Y", "only a has it")]


def test_clips_of_other_names_are_refused_with_examples(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        clips = [ClipScores(f"{name}{i}", {"m": float(i)}) for i in range(4)]
        paths.append(written(tmp_path, name, clips=clips, metrics={"m": MetricValue(1.5, 4, "higher")}))
    with pytest.raises(
        UserError, match=r"m: no clip in common: a has a0, a1 and 2 more, b has b0, b1 and 2 more"
    ):
        compare(*paths)


def test_a_mean_whose_clips_are_not_told_is_compared_as_a_whole(tmp_path: Path) -> None:
    paths = []
    for name, value in (("a", 0.5), ("b", 0.6)):
        clips = [ClipScores(f"c{i}", {"other": i / 10}) for i in range(4)]
        metrics = {"wer": MetricValue(value, 4, "lower", ci95=(value - 0.01, value + 0.01))}
        paths.append(written(tmp_path, name, clips=clips, metrics=metrics, n_clips=4))
    entry = compare(*paths).entries[0]
    assert entry.difference.n_clips is None
    assert entry.difference.value == pytest.approx(-0.1)
    assert any(note.startswith("compared as whole values") for note in entry.notes)


def test_where_neither_high_nor_low_is_better_the_sides_are_only_apart(tmp_path: Path) -> None:
    paths = [
        written(
            tmp_path, name, metrics={"m": a_set(v, direction="closer_to_reference", ci95=(v - 0.1, v + 0.1))}
        )
        for name, v in (("a", 1.0), ("b", 2.0))
    ]
    assert compare(*paths).entries[0].verdict == "differ"


def test_warnings_and_other_decoders_are_told(tmp_path: Path) -> None:
    paths = []
    for name, libavcodec in (("a", "61.1.0"), ("b", "62.28.102")):
        facts = {
            "decoder": {"libavcodec": libavcodec, "libswscale": "9.5.102"},
            "versions": {"ovi_eval": "0.1.0"},
        }
        metrics = {"fvd": a_set(1.0, warnings=("40 clips are fewer than 400 dimensions",))}
        paths.append(written(tmp_path, name, metrics=metrics, provenance=facts))
    found = compare(*paths)
    assert found.notes == ["a and b were scored with other decoders: libavcodec 61.1.0 and 62.28.102"]
    assert "a: 40 clips are fewer than 400 dimensions" in found.entries[0].notes


def test_a_side_is_one_model_that_is_there(folder: Path, tmp_path: Path) -> None:
    for side, named in (
        (folder, r"holds runs of bidirectional_scaled, none; a side is one model"),
        (tmp_path / "gone.json", "no such file or folder"),
        (tmp_path, "no results were found"),
        ([], "names no file"),
    ):
        with pytest.raises(UserError, match=named):
            compare(side, folder / "none_0.json")
    twice = run("none", 0).write(tmp_path / "again.json")
    with pytest.raises(
        UserError, match=r"none, seed 0 was found twice, in .*none_0\.json and in .*again\.json"
    ):
        compare([folder / "none_0.json", twice], folder / "bidirectional_scaled_0.json")


def test_folders_of_a_study_are_sides_and_unfinished_ones_are_named(
    tmp_path: Path, comparison: Comparison
) -> None:
    study = write_study(tmp_path)
    found = compare(study / GOOD, study / BAD)
    assert [e.difference for e in found.entries] == [e.difference for e in comparison.entries]
    for seed in (0, 1, 2):
        (study / BAD / f"seed_{seed}" / "results.json").unlink()
    with pytest.raises(UserError, match=r"seed_0: not finished: it has no results\.json yet"):
        compare(study / GOOD, study / BAD)


def test_the_terminal_holds_every_number_in_100_columns(comparison: Comparison) -> None:
    text = printed(comparison)
    assert max(len(line.rstrip()) for line in text.split("\n")) <= 100
    for entry in comparison.entries:
        assert entry.column.id in text
    assert "sign-flip permutation over clips" in text
    for words in ("A better", "< 0.001", "40 clips, 3 seeds", "paired t over seeds"):
        assert words in text
    assert re.search(r"bidirectional_scaled: \S*bidirectional_scaled_0\.json", text)


def test_names_from_files_are_no_markup(tmp_path: Path) -> None:
    name = "[red]<b>x|y</b>"
    metrics = {"m|<i>": a_set(1.0)}
    runs = (run(n, None, clips=(), losses={}, metrics=metrics) for n in (name, "[/]"))
    found = compare(*(made.write(tmp_path / f"{i}.json") for i, made in enumerate(runs)))
    assert "[red]<b>x|y</b>" in printed(found)
    assert "<b>" not in markdown(found)
    assert "<i>" not in markdown(found)
    assert r"m\|&lt;i> ↓" in markdown(found)


def test_the_command_writes_json_and_markdown(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sides = [",".join(str(folder / f"{name}_{s}.json") for s in (0, 1)) for name in (GOOD, BAD)]
    command(*sides, "--json", tmp_path / "deep" / "c.json", "--markdown", tmp_path / "c.md")
    shown = capsys.readouterr().out
    data = json.loads((tmp_path / "deep" / "c.json").read_text())
    assert data["schema"] == "ovi_eval.comparison/1"
    assert [run["seed"] for run in data["a"]["runs"]] == [0, 1]
    assert data["b"]["runs"][1]["file"] == "none_1.json"  # where it lies is not told
    first = data["metrics"][0]
    assert first["column"]["id"] == "ball/onset_f1"
    assert first["a"] - first["b"] == pytest.approx(first["difference"]["value"])
    assert first["difference"]["by_seed"][1]["seed"] == 1
    assert {"value", "interval", "test", "n_clips", "n_seeds"} <= set(first["difference"])
    assert first["verdict"] in VERDICTS
    table = (tmp_path / "c.md").read_text()
    assert table.count("\n| ") == len(data["metrics"]) + 1
    assert "A better" in table
    assert "A better" in shown
    assert str(tmp_path / "c.md") in shown


def test_bad_input_is_one_line_and_code_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["compare", str(folder / "none_0.json"), str(folder / f"{GOOD}_0.json")]) == 0
    assert "B better" in capsys.readouterr().out
    a, b = (written(tmp_path, n, metrics={"fvd": a_set(1.0, variant=v)}) for n, v in (("a", "x"), ("b", "y")))
    assert main(["compare", str(a), str(b)]) == 2
    told = capsys.readouterr()
    assert told.err == (
        "ovi-eval: a and b: nothing can be compared: fvd: variant is 'x' in a and 'y' in b; "
        "score both in the same way\n"
    )
    assert told.out == ""
    assert main(["compare", str(a), str(tmp_path / "gone.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_comma_in_a_name_is_no_list(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = run("none", 0).write(tmp_path / "a,b.json")
    command(path, folder / f"{GOOD}_0.json")
    assert "a,b.json" in capsys.readouterr().out


def test_the_command_overwrites_no_result_and_no_folder(folder: Path, tmp_path: Path) -> None:
    a, b = folder / f"{GOOD}_0.json", folder / f"{BAD}_0.json"
    before = b.read_bytes()
    with pytest.raises(UserError, match="is one of the results compared"):
        command(a, b, "--json", b)
    with pytest.raises(UserError, match="is a folder"):
        command(a, b, "--markdown", tmp_path)
    assert b.read_bytes() == before
