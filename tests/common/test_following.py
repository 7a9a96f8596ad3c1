"""The last lines of commands: paths as they are typed, shards as one argument; a bar that has ended."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from ovi_lab.common.following import sampling, shard_pattern, typed
from ovi_lab.common.progress import ConsoleReporter, LineReporter, reporter_on


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
