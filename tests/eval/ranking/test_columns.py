"""Columns of a leaderboard: what may be ranked together, and how each value and interval comes about."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from helpers.eval_study import run
from helpers.runs_in_memory import board_of, metric, plain
from ovi_eval.errors import UserError
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.report.terminal import show
from ovi_eval.results.files import ClipScores, MetricValue
from ovi_eval.stats.intervals import mean_interval


def test_versions_and_variants_are_columns_of_their_own():
    board = board_of(
        plain("a", 0, 0.9, version="1"), plain("b", 0, 0.1, version="2"), plain("c", 0, 0.2, version="2")
    )
    assert [c.id for c in board.columns] == ["m/score v1", "m/score v2"]
    cells = {row.name: row.cells for row in board.arms}
    assert list(cells["a"]) == ["m/score v1"]
    assert cells["b"]["m/score v2"].versus_first is None
    assert [cells["b"]["m/score v2"].rank, cells["c"]["m/score v2"].rank] == [2, 1]
    mixed = board_of(plain("a", 0, 0.9, variant="x"), plain("a", 1, 0.1, variant="y"))
    assert {c.id: mixed.arms[0].cells[c.id].value for c in mixed.columns} == {
        "m/score [x]": 0.9,
        "m/score [y]": 0.1,
    }


def test_benchmarks_are_columns_of_their_own_also_of_one_model():
    runs = [
        replace(plain(name, None, value), benchmark=benchmark, folder=None)
        for name, benchmark, value in (
            ("a", "Verse-Bench", 0.9),
            ("b", "Verse-Bench", 0.1),
            ("a", "JavisBench", 0.3),
            ("c", "", 0.99),
        )
    ]
    board = board_of(*runs)
    assert [(c.id, c.benchmark) for c in board.columns] == [
        ("m/score on Verse-Bench", "Verse-Bench"),
        ("m/score on JavisBench", "JavisBench"),
        ("m/score on no benchmark", ""),
    ]
    cells = {row.name: {c: (x.value, x.rank) for c, x in row.cells.items()} for row in board.arms}
    assert cells == {
        "a": {"m/score on Verse-Bench": (0.9, 1), "m/score on JavisBench": (0.3, 1)},
        "b": {"m/score on Verse-Bench": (0.1, 2)},
        "c": {"m/score on no benchmark": (0.99, 1)},
    }
    assert board.arms[0].seeds == [None]
    kept = json.loads(json.dumps(board.to_dict()))["columns"][0]
    assert (kept["benchmark"], kept["comparable"]) == ("Verse-Bench", True)


def test_clips_of_one_models_benchmarks_are_not_mixed_up():
    a, b = (run("none", 0, n_clips=n, losses={}) for n in (40, 30))
    board = board_of(replace(a, benchmark="X"), replace(b, benchmark="Y"), run("real", 1))
    cells = board.arms[0].cells
    assert cells["ball/onset_f1 on X"].over_clips.n == 40
    assert cells["ball/onset_f1 on Y"].over_clips.n == 30
    assert not board.problems


def test_metrics_scored_one_after_the_other_are_one_row():
    early, late = plain("a", 0, 0.9), run("a", 0, clips=(), losses={}, metrics={"n/score": metric(0.2)})
    board = board_of(early, late, plain("b", 0, 0.1))
    assert [(row.name, sorted(row.cells)) for row in board.arms] == [
        ("a", ["m/score", "n/score"]),
        ("b", ["m/score"]),
    ]
    with pytest.raises(UserError, match=r"a, seed 0 was found twice.*both have n/score"):
        board_of(early, late, late)


def test_what_is_not_comparable_is_shown_and_neither_ranked_nor_compared_nor_claimed():
    runs = [
        plain("a", 0, 0.9, comparable=False),
        plain("b", 0, 0.2, comparable=False),
        plain("b", 1, 0.1),
        plain("c", 1, 0.3),
    ]
    claim = {"metric": "m/score", "arm": "a", "versus": "b", "supported": "s", "unsupported": "u"}
    board = board_of(*runs, claims=[claim])
    assert [c.id for c in board.columns] == ["m/score (not comparable)", "m/score"]
    cells = {row.name: row.cells for row in board.arms}
    assert cells["a"]["m/score (not comparable)"].value == 0.9
    for name in ("a", "b"):
        assert cells[name]["m/score (not comparable)"].rank is None
        assert cells[name]["m/score (not comparable)"].versus_first is None
    assert [cells[name]["m/score"].rank for name in ("b", "c")] == [2, 1]
    assert board.findings[0].outcome == "unknown"
    alone = board_of(*runs[:2], claims=[claim])
    assert "not comparable, as of a part of the clips" in alone.findings[0].text
    console = Console(width=100, record=True, file=io.StringIO())
    show(board, console)
    assert "(not comparable)" in " ".join(console.export_text().split())


def test_a_metric_of_another_package_states_its_title_in_its_results(tmp_path):
    theirs = {
        "rain/heard": metric(0.5, title="Rain that is heard"),
        "ball/onset_f1": metric(0.5, title="Mine"),
    }
    board = build_leaderboard([run("a", 0, clips=(), metrics=theirs).write(tmp_path / "a")])
    titles = {column.key: column.title for column in board.columns}
    assert titles == {
        "rain/heard": "Rain that is heard",
        "ball/onset_f1": "Onset F1 within 75 ms",
        "val_loss_audio": "",
    }


def test_losses_know_no_benchmark_and_come_once_a_seed():
    runs = [
        run("a", 0, clips=(), metrics={"m/score": metric(0.1)}, losses={"val": 0.5}, benchmark="X"),
        run("a", 0, clips=(), metrics={"m/score": metric(0.2)}, losses={"val": 0.5}, benchmark="Y"),
        run("b", 0, clips=(), metrics={"m/score": metric(0.3)}, losses={"val": 0.4}),
    ]
    board = board_of(*runs)
    assert [row.cells["loss/val"].rank for row in board.arms] == [2, 1]
    assert board.arms[0].cells["loss/val"].by_seed == {0: 0.5}


def test_the_interval_of_one_run_is_the_one_it_states():
    made = run("none", 0)
    stated = replace(made.metrics["ball/onset_f1"], ci95=(0.1, 0.35))
    board = board_of(replace(made, metrics={**made.metrics, "ball/onset_f1": stated}))
    cell = board.arms[0].cells["ball/onset_f1"]
    assert (cell.interval.low, cell.interval.high, cell.interval.n) == (0.1, 0.35, 40)
    assert cell.interval.method == "over clips, as the run states it"
    assert cell.over_clips == mean_interval(list(made.per_clip("ball/onset_f1").values()), "ball/onset_f1")
    other = board_of(replace(made, name="other", seed=7)).arms[0].cells["ball/onset_f1"]
    assert (
        other.interval == other.over_clips == cell.over_clips
    )  # the same clips, whatever the model is called


def test_the_interval_of_a_share_over_seeds_ends_where_the_share_does():
    runs = [
        run("none", seed, clips=shares(value), losses={}, metrics=share(value))
        for seed, value in enumerate((0.5, 0.9, 1.0))
    ]
    cell = board_of(*runs).arms[0].cells["m/share"]
    assert cell.interval.high == 1.0
    assert cell.interval.low > 0
    assert cell.interval.method == "t over seeds, cut at 1"
    unit = [replace(r, metrics={"m/share": replace(r.metrics["m/share"], unit="s")}) for r in runs]
    assert board_of(*unit).arms[0].cells["m/share"].interval.high > 1.0


def shares(value):
    return [ClipScores(f"c{i}", {"m/share": float(i < 10 * value)}) for i in range(10)]


def share(value):
    return {"m/share": MetricValue(value, 10, "higher")}


def test_one_version_with_two_directions_is_refused():
    with pytest.raises(UserError, match="m/score: higher is best once, lower in"):
        board_of(plain("a", 0, 0.9), plain("b", 0, 0.1, direction="lower"))


def test_closer_to_reference_ranks_by_distance_to_the_first_reference():
    runs = [plain(n, 0, v, direction="closer_to_reference") for n, v in (("a", 5.0), ("b", 2.9), ("c", 1.0))]
    real = plain("real", None, 3.0, kind="reference", direction="closer_to_reference")
    ranks = [row.cells["m/score"].rank for row in board_of(*runs, real).arms]
    assert ranks == [2, 1, 2]
    assert all(row.cells["m/score"].rank is None for row in board_of(*runs).arms)
    claim = {"metric": "m/score", "arm": "a", "versus": "b", "supported": "s", "unsupported": "u"}
    with pytest.raises(UserError, match="best near its reference"):
        board_of(*runs, real, claims=[claim])


def test_a_value_that_is_not_the_mean_of_its_clips_is_compared_over_seeds():
    runs = []
    for name in ("a", "b"):
        for seed in (0, 1):
            made = run(name, seed)
            pooled = replace(made.metrics["ball/onset_f1"], value=0.123 + seed / 100 + (name == "a") / 10)
            runs.append(replace(made, metrics={**made.metrics, "ball/onset_f1": pooled}))
    board = board_of(*runs)
    assert "paired t over seeds" in board.arms[1].cells["ball/onset_f1"].versus_first.difference.test.name
    assert any("ball/onset_f1 is not the mean of its clips" in problem for problem in board.problems)
