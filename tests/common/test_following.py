"""The last lines of commands: paths as they are typed, shards as one argument; a bar that has ended."""

import io
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from ovi_lab.common.following import sampling, shard_pattern, typed
from ovi_lab.common.progress import ConsoleReporter, LineReporter, progress, reporter_on, told


def test_paths_are_typed_from_here_and_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert typed(tmp_path / "runs" / "a") == "runs/a"
    assert typed("runs/my run") == "'runs/my run'"
    assert typed("/elsewhere/a") == "/elsewhere/a"


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["a-000"], "a-000.tar"),
        (["a-001", "a-000", "a-002"], "'a-{000..002}.tar'"),
        (["a-000", "a-002"], "'a-*.tar'"),
        (["b/x", "b/y"], "'b/*.tar'"),
        ([], "…"),
    ],
)
def test_shards_are_one_argument(names, pattern, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shard_pattern([Path(f"{name}.tar") for name in names]) == pattern


def test_a_prompt_is_quoted_for_the_shell():
    assert (
        sampling("runs/a/last", 'a "red"\nball')
        == 'ovi-sample checkpoint=runs/a/last prompt="a \\"red\\" ball"'
    )
    assert "weights=DIR" in sampling("x", weights=True)


def test_a_bar_that_has_ended_shows_what_it_took():
    out = io.StringIO()
    reporter = ConsoleReporter(Console(file=out, width=80))
    reporter.at("data", 1, 1)
    reporter.at("training", 1, 2)
    reporter.close()
    data, training = out.getvalue().splitlines()[-2:]
    assert "took 0:00:00" in data
    assert "left" not in data
    assert "left" in training


def test_in_a_file_progress_is_lines_few_of_them_and_whole():
    out = io.StringIO()
    reporter = reporter_on(Console(file=out))
    assert isinstance(reporter, LineReporter)
    for done in range(401):
        reporter.at("training", done, 400, f"loss {done}")
    reporter.at("scoring", 1, 1)
    assert (
        out.getvalue()
        == "training 0/400 0:00:00 loss 0\ntraining 400/400 0:00:00 loss 400\nscoring 1/1 0:00:00\n"
    )
    reporter.seconds = 0
    reporter.at("sampling", 1, 2)
    assert out.getvalue().endswith("sampling 1/2 0:00:00, 0:00:00 left\n")


def test_on_a_terminal_progress_is_bars():
    reporter = reporter_on(Console(file=io.StringIO(), force_terminal=True))
    assert isinstance(reporter, ConsoleReporter)
    reporter.close()


def test_a_command_whose_output_goes_into_a_file_says_how_far_it_is_if_it_takes_long(capsys, monkeypatch):
    assert list(progress(iter("abc"), "building", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    clock = itertools.count(step=1.5)
    monkeypatch.setattr("ovi_lab.common.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert list(progress(iter("abc"), "building", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "building 2/3 0:00:03, 0:00:02 left\nbuilding 3/3 0:00:04\n"
    assert list(progress(iter("abc"), "building", 3, shown=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_a_run_is_told_of_each_pass_over_its_data_though_they_show_nothing():
    out = io.StringIO()
    reporter = LineReporter(Console(file=out))
    reporter.at("data", 0, 1)
    with told(reporter, "data"):
        for what in ("train clips", "train latents"):
            assert list(progress("abc", what, 3, shown=False)) == ["a", "b", "c"]
    assert list(progress("abc", "others", 3, shown=False)) == ["a", "b", "c"]
    assert out.getvalue().splitlines() == [
        "data 0/1 0:00:00",
        "data 3/3 0:00:00 train clips",
        "data 0/3 0:00:00 train latents",
        "data 3/3 0:00:00 train latents",
    ]
