"""Files that appear together or not at all, on a disk that is full: the limit on a file's size is the system's own."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.eval_study import run
from helpers.forks import Fork, wait_for_all
from ovi_eval.common.files import written_together
from ovi_eval.errors import UserError
from ovi_eval.ranking.leaderboard import build_leaderboard
from ovi_eval.report import write_all
from ovi_eval.results.reading import read


def rewrite_on_a_full_disk(root: Path) -> None:
    small = run("none", 0, n_clips=2, losses={})
    small = replace(small, metrics={"ball/onset_f1": small.metrics["ball/onset_f1"]})
    runs = [replace(small, name=name).write(root / f"{name}.json") for name in "ab"]
    board, pair = root / "board", root / "pair"
    write_all(build_leaderboard(runs), board)
    run("none", 0, n_clips=400).write(pair)
    new = replace(run("none", 1, n_clips=400), name="new", notes=["x" * 100] * 200)
    new_board = build_leaderboard(runs, title="new")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for folder, make in ((board, lambda: write_all(new_board, board)), (pair, lambda: new.write(pair))):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        sizes = sorted(map(len, before.values()))
        for limit in (10, sizes[-2] + 900):  # nothing fits, then all but the largest
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
            try:
                with pytest.raises(UserError, match=r"cannot be written \("):
                    make()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, limit
        make()
        assert {path.name for path in folder.iterdir()} == set(before)
        assert read(pair).name == ("none" if folder == board else "new")


@pytest.mark.slow
def test_on_a_full_disk_nothing_is_lost_and_nothing_is_half_there(tmp_path: Path) -> None:
    wait_for_all([Fork(rewrite_on_a_full_disk, tmp_path)])


def test_files_take_their_places_together(tmp_path: Path) -> None:
    first, second = tmp_path / "deep" / "a.txt", tmp_path / "b.txt"
    with written_together() as beside:
        beside(first).write_text("1")
        assert not first.exists()
        beside(second).write_text("2")
    assert (first.read_text(), second.read_text()) == ("1", "2")
    with pytest.raises(ValueError, match="null"):
        _written(first, tmp_path / "\0")
    (tmp_path / "folder").mkdir()
    for name in ("folder", "c.txt"):
        with pytest.raises(UserError, match=f"{name}: cannot be written"):
            _written(first, tmp_path / name)
    assert (first.read_text(), second.read_text()) == ("1", "2")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "b.txt", "deep", "folder"]


def _written(first: Path, second: Path) -> None:
    """Writes the first, and of the second only a name."""
    with written_together() as beside:
        beside(first).write_text("new")
        beside(second)
        if "\0" in second.name:
            second.touch()


def test_a_pair_of_two_scorings_is_refused(tmp_path: Path) -> None:
    run("none", 0).write(tmp_path / "old")
    run("none", 1).write(tmp_path / "new")
    (tmp_path / "old" / "per_clip.jsonl").replace(tmp_path / "new" / "per_clip.jsonl")
    with pytest.raises(UserError, match=r"results\.json: "):
        read(tmp_path / "new")
    # Values that agree with the metrics, but are not those of this scoring.
    made = run("none", 2)
    path = made.write(tmp_path / "both")
    clips = path.with_name("per_clip.jsonl")
    lines = clips.read_text().splitlines()
    clips.write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(UserError, match="per-clip file is of another scoring"):
        read(path)
