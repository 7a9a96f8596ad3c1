"""Curves over a number: what is on them, the table of two numbers, and what is refused or marked in one line."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from helpers.swept_study import FACTORS, write_curve, write_point
from ovi_eval.cli import main
from ovi_eval.errors import UserError
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.ranking.sweep import Axes
from ovi_eval.report import write_all
from ovi_eval.report.html.page import page
from ovi_eval.report.markdown import markdown
from ovi_eval.report.terminal import show

X = Axes(["rope.factor"], [], {"rope.factor": 0.2})


@pytest.fixture(scope="session")
def curve(tmp_path_factory):
    return write_curve(tmp_path_factory.mktemp("curve") / "runs")


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    """A metric that goes with both numbers and with their product."""
    root = tmp_path_factory.mktemp("two")
    for steps in (2, 4, 8):
        for shift in (1.0, 5.0):
            for seed in (0, 1, 2):
                noise = np.random.default_rng([steps, int(shift), seed]).normal(0, 0.01)
                settings = {"sampler.steps": steps, "sampler.shift": shift, "evaluation.sampler.steps": steps}
                value = np.log2(steps) * shift + noise
                write_point(root, f"steps={steps},shift={shift:g}", seed, float(value), settings)
    return root


def test_points_ascend_with_means_and_intervals_over_paired_seeds(curve):
    board = build_leaderboard([curve], axes=X)
    assert [one.at[0] for one in board.sweep.along("")] == list(FACTORS)
    rows = {row.name: row for row in board.arms}
    cell = rows[board.sweep.along("")[2].arm].cells["m/score"]
    low, high = stats.t.interval(0.95, 2, cell.value, stats.sem(list(cell.by_seed.values())))
    assert (cell.interval.low, cell.interval.high) == pytest.approx((low, high))
    assert all(cell.versus_first is None for row in board.arms for cell in row.cells.values())
    assert board.problems == []


def test_every_way_to_show_it_has_the_curve_and_the_papers_value(curve, tmp_path):
    board = build_leaderboard([curve], axes=X, title="Factors")
    text, console = markdown(board), Console(file=io.StringIO(), width=100)
    show(board, console)
    assert "| rope.factor | value |" in text
    assert "| 0.2 (paper) | 0.9" in text
    assert "0.2 (paper)" in console.file.getvalue()
    assert "both,rope.factor=0.2" not in text  # no categories
    html = page(board)
    assert "Against rope.factor" in html
    write_all(board, tmp_path)
    drawn = (tmp_path / "figure.png").read_bytes()
    assert Image.open(io.BytesIO(drawn)).size[0] > 400
    write_all(build_leaderboard([curve], axes=X, title="Factors"), tmp_path / "again")
    assert (tmp_path / "again" / "figure.png").read_bytes() == drawn
    shown = re.search(r'src="data:image/png;base64,([^"]+)"', (tmp_path / "leaderboard.html").read_text())
    assert base64.b64decode(shown[1]) == drawn


def test_an_earlier_leaderboard_remembers_its_curve(curve, tmp_path):
    root = shutil.copytree(curve, tmp_path / "runs")
    write_all(build_leaderboard([root], axes=X), root)
    again = build_leaderboard([root])
    assert again.sweep.axes == X
    written = json.loads((root / "results.json").read_text())
    assert [point["at"] for point in written["sweep"]["arms"]] == [[factor] for factor in FACTORS]


def test_by_tells_curves_apart_and_may_name_a_group(curve, tmp_path):
    root = shutil.copytree(curve, tmp_path / "runs")
    write_curve(root, direction="none")
    for key, label in (("fusion.direction", "direction=none"), ("fusion", "direction=none")):
        board = build_leaderboard([root], axes=Axes(["rope.factor"], [key]))
        assert board.sweep.series == ["direction=both", label]
        assert len(board.sweep.along(label)) == len(FACTORS)
        assert "| rope.factor | direction=both | direction=none |" in markdown(board)
    arms = build_leaderboard([root], axes=Axes(["rope.factor"], ["arm"])).sweep
    assert arms.series == ["both", "none"]
    with pytest.raises(UserError, match=r"are both at rope\.factor=0.*: .* --by fusion\.direction"):
        build_leaderboard([root], axes=X)


def test_curves_of_a_group_have_the_names_of_its_options(tmp_path):
    """As a sweep over `rope=scaled,seconds` names its runs; where names and settings disagree, the settings count."""
    for option, factor in (("scaled", 0.2), ("seconds", 0.02)):
        for length in (1, 2, 4):
            name = f"both,rope={option},evaluation.length={length}"
            settings = {"evaluation.length": length, "rope.mode": "constant", "rope.factor": factor}
            write_point(tmp_path, name, 0, factor * length, settings)
    axes = Axes(["evaluation.length"], ["rope"])
    sweep = build_leaderboard([tmp_path], axes=axes).sweep
    assert sweep.series == ["rope=scaled", "rope=seconds"]
    (found,) = sweep.having({"rope": "seconds", "evaluation.length": 2})
    assert found.arm == "both,rope=seconds,evaluation.length=2"
    settings = {"evaluation.length": 8, "rope.mode": "constant", "rope.factor": 0.4}
    write_point(tmp_path, "both,rope=scaled,evaluation.length=8", 0, 0.5, settings)
    assert build_leaderboard([tmp_path], axes=axes).sweep.series == [
        "factor=0.2",
        "factor=0.4",
        "factor=0.02",
    ]


def test_runs_of_one_name_are_told_apart_by_their_number(tmp_path):
    for number, factor in enumerate((0.1, 0.2, 0.4)):
        write_point(tmp_path / f"study_{number}", "scaled", 0, 0.5 + factor, {"rope.factor": factor})
    board = build_leaderboard([tmp_path], axes=X)
    assert [one.arm for one in board.sweep.along("")] == [f"scaled,rope.factor={f}" for f in (0.1, 0.2, 0.4)]


def test_two_numbers_give_main_effects_and_their_interaction(two):
    board = build_leaderboard([two], axes=Axes(["sampler.steps", "sampler.shift"]))
    effects = board.to_dict()["sweep"]["effects"]
    (found,) = effects
    assert found["n_seeds"] == 3
    y = np.log2([2, 4, 8])[:, None] * np.array([1, 5])
    a, b = y.mean(axis=1) - y.mean(), y.mean(axis=0) - y.mean()
    parts = np.array([2 * (a**2).sum(), 3 * (b**2).sum(), ((y - y.mean() - a[:, None] - b) ** 2).sum()])
    shares = [found[name]["share"] for name in ("first", "second", "interaction")]
    assert shares == pytest.approx(parts / parts.sum(), abs=0.01)
    assert all(found[name]["p"] < 0.01 for name in ("first", "second", "interaction"))
    text = markdown(board)
    assert "| sampler.steps | sampler.shift 1 | sampler.shift 5 |" in text
    assert "- interaction of sampler.steps and sampler.shift: " in text
    assert [one.at for one in board.sweep.along("", 5.0)] == [(2, 5), (4, 5), (8, 5)]
    write_all(board, two / "out")
    assert "interaction of sampler.steps" in (two / "out" / "leaderboard.html").read_text()


def test_an_empty_cell_leaves_the_table_and_takes_the_effects(two, tmp_path):
    root = shutil.copytree(two, tmp_path / "runs", ignore=shutil.ignore_patterns("steps=4,shift=5", "out"))
    board = build_leaderboard([root], axes=Axes(["sampler.steps", "sampler.shift"]))
    assert board.to_dict()["sweep"]["effects"] == []
    assert "No main effects: they need two seeds" in markdown(board)
    assert "| 4 | 2.0" in markdown(board)


def test_what_is_not_on_a_curve_or_differs_beside_it_is_named(curve, tmp_path):
    root = shutil.copytree(curve, tmp_path / "runs")
    write_point(root, "learned", 0, 0.5, {"rope.factor": "learned", "fusion.direction": "both"})
    for name, value in (("nan", float("nan")), ("huge", 10**400)):
        write_point(root, name, 0, 0.5, {"rope.factor": value, "fusion.direction": "both"})
    write_point(root, "longer", 0, 0.5, {"rope.factor": 1.6, "fusion.direction": "both", "trainer.max_steps": 9},
                provenance={"git": "fedcba9"})  # fmt: skip
    bare = write_point(root, "bare", 0, 0.5, {})
    (bare / "config.yaml").unlink()
    problems = build_leaderboard([root], axes=X).problems
    assert "learned, seed 0: its rope.factor is learned, no number, so it is on no curve" in problems
    assert "nan, seed 0: its rope.factor is nan, no number, so it is on no curve" in problems
    assert any(text.startswith("huge, seed 0: its rope.factor is 1000") for text in problems)
    assert "bare, seed 0: has no config.yaml beside its results, so it is on no curve" in problems
    assert "runs of different code are on these curves: 0123abc, fedcba9" in problems
    differing = next(text for text in problems if "differ in more than" in text)
    assert "differ in more than rope.factor: " in differing
    assert "trainer.max_steps" in differing


@pytest.fixture
def refused(capsys):
    def check(*arguments):
        assert main(["leaderboard", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.strip().split("\n")
        return line

    return check


def test_what_makes_no_curve_is_refused_in_one_line(curve, tmp_path, refused):
    assert refused(curve, "--x", "rope.facto").endswith(
        "no run has a setting rope.facto; did you mean rope.factor or model.rope.factor?"
    )
    assert "fusion.direction is 'both' in these runs: x takes a number" in refused(
        curve, "--x", "fusion.direction"
    )
    one = curve / "both,rope.factor=0.1"
    assert "rope.factor is 0.1 in all of these runs: a curve needs two values or more" in refused(
        one, "--x", "rope.factor"
    )
    assert "--by tells the curves of --x apart" in refused(curve, "--by", "fusion.direction")
    assert "rope.factor is both x and by" in refused(curve, "--x", "rope.factor", "--by", "rope.factor")
    assert "expected one setting for a curve, or two for a table" in refused(curve, "--x", "a,b,c")
    assert "no run has a setting fusion.directio" in refused(
        curve, "--x", "rope.factor", "--by", "fusion.directio"
    )
    root = shutil.copytree(curve, tmp_path / "runs")
    write_point(root, "more", 0, 0.5, {"rope.factor": 1.6, "data.num_train": 64})
    line = refused(root, "--x", "rope.factor")
    assert "runs of different data are in one curve: data.num_train is 32 in" in line
    assert "and 64 in more, seed 0" in line


def test_leaderboard_makes_curves_from_runs_that_are_there(curve, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["leaderboard", str(curve), "--x", "rope.factor", "--out", str(out)]) == 0
    assert "rope.factor" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["study"]["x"] == ["rope.factor"]


def test_curves_go_over_the_compute_that_results_tell(tmp_path):
    for width in (32, 64):
        for steps in (250, 500):
            for seed in (0, 1):
                write_point(
                    tmp_path, f"both,dim={width},steps={steps}", seed, 1e-4 * width * steps,
                    {"model.video.dim": width, "trainer.max_steps": steps},
                    provenance={"training_tflops": width**2 * steps / 1e6},
                )  # fmt: skip
    axes = Axes(["training_tflops"], ["arm", "model.video.dim"])
    board = build_leaderboard([tmp_path], axes=axes)
    assert [one.at[0] for one in board.sweep.along("both, dim=64")] == [1.024, 2.048]
    assert board.problems == [
        f"runs of the curve of both, dim={width} differ in more than training_tflops: trainer.max_steps"
        for width in (32, 64)
    ]
    # it follows from the settings, and is not named beside them
    others = build_leaderboard([tmp_path], axes=Axes(["trainer.max_steps"], ["model.video.dim"])).problems
    assert others == []
