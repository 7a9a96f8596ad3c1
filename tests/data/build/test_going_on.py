"""A build that goes on: the same bytes whatever the workers and interruptions, and nothing measured twice."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from helpers.forks import Fork, warm_process
from helpers.small_videos import RECIPE, digests, moving, write
from ovi_lab.data.build import items
from ovi_lab.data.build.build import WORK, BuildOptions, build
from ovi_lab.data.build.recipe import Recipe, read_recipe
from ovi_lab.errors import UserError

QUIET = BuildOptions(quiet=True)


def build_once(videos: Path, out: Path) -> None:
    """A build as a process of its own."""
    build(videos, out, read_recipe("planted", RECIPE), QUIET)


@pytest.mark.slow
def test_ten_kills_change_no_byte(videos: Path, once: dict[str, str], tmp_path: Path) -> None:
    """Before the first source is finished, within each of them, and while shards are written."""
    out, draw = tmp_path / "out", random.Random(0)
    for _ in range(10):
        fork = Fork(build_once, videos, out)
        begun, wait = time.monotonic(), draw.uniform(0.0, 0.5)
        while fork.code is None and time.monotonic() - begun < wait:
            time.sleep(0.01)
        fork.signal(signal.SIGKILL)
        fork.process.join(60)
    last = Fork(build_once, videos, out)
    assert last.wait() == 0, last.output
    assert digests(out) == once
    assert not list(out.glob(".shards*"))
    assert not list((out / WORK).glob(".*.tmp"))


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one(
    videos: Path, recipe: Recipe, once: dict[str, str], tmp_path: Path
) -> None:
    warm_process()  # whose forks the workers are
    build(videos, tmp_path / "out", recipe, BuildOptions(workers=2, quiet=True))
    assert digests(tmp_path / "out") == once


@pytest.mark.slow
def test_nothing_is_measured_twice(videos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: Any) -> None:
    measured: list[str] = []
    real = items._scored
    monkeypatch.setattr(items, "_scored", lambda clip, steps: measured.append(clip.key) or real(clip, steps))
    out = tmp_path / "out"
    build(videos, out, recipe, QUIET)
    assert measured == [f"v{n}-000" for n in range(4)]
    first = digests(out)
    build(videos, out, recipe, QUIET)
    assert (len(measured), digests(out)) == (4, first)
    # other bounds: the scores stay, and what is kept now is cut again where it was not stored
    strict = read_recipe("planted", {**RECIPE, "keep": {"motion": {"min": 10.0}}})
    built, _ = build(videos, out, strict, BuildOptions(rescore=True, quiet=True))
    assert built.kept.total() == 0
    assert built.dropped == {"motion": 4}
    assert not list(out.glob("*.tar"))
    build(videos, out, recipe, BuildOptions(rescore=True, quiet=True))
    assert (len(measured), digests(out)) == (4, first)
    # a file that changed is read again, and one that is gone is forgotten
    write(out.parent / "w" / "v0.mp4", moving(9))
    build(out.parent / "w", out, recipe, QUIET)
    assert measured[4:] == ["v0-000"]
    assert len(list((out / WORK).glob("*.tar"))) == 1
    other = read_recipe(
        "planted", {**RECIPE, "steps": {"motion": {"every": 4}, "loudness": {}, "fingerprints": {}}}
    )
    with pytest.raises(UserError, match=r"v0.mp4 was scored by other steps .*without --rescore"):
        build(out.parent / "w", out, other, BuildOptions(rescore=True, quiet=True))


@pytest.mark.slow
def test_sources_are_split_whole_and_clips_without_caption_are_dropped(videos: Path, tmp_path: Path) -> None:
    halved = read_recipe("planted", {**RECIPE, "val_share": 0.5, "without_caption": "drop", "shard_bytes": 1})
    (videos / "v9.mp4").write_bytes((videos / "v0.mp4").read_bytes())
    built, _ = build(videos, tmp_path / "out", halved, QUIET)
    rows = [json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines()]
    assert rows[-1]["dropped_by"] == ["caption"]
    assert {row["split"] for row in rows} == {"train", "val"}
    assert len(built.shards) == 4  # one clip each: a shard is full at a byte
    (videos / "v9.mp4").unlink()


def test_slips_are_one_line(videos: Path, recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / WORK).mkdir(parents=True)
    with FileLock(out / WORK / "lock"), pytest.raises(UserError, match="another build is writing to"):
        build(videos, out, recipe, QUIET)
    with pytest.raises(UserError, match="nowhere does not exist"):
        build(tmp_path / "nowhere", out, recipe, QUIET)
    with pytest.raises(UserError, match=r"no \.mp4"):
        build(out, tmp_path / "other", recipe, QUIET)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; name a folder"):
        build(videos, tmp_path / "file", recipe, QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepps": {}}, "stepps is unknown; expected one of clips, steps"),
        ({"steps": ["motoin"]}, "motoin is unknown; expected one of motion, aesthetics, faces"),
        ({"steps": {"motion": {"evry": 2}}}, "step motion: .*evry"),
        ({"steps": {"motion": {"every": 0}}}, "every is 0; expected a whole number"),
        ({"keep": {"motino": {"min": 1}}}, "keep: motino is unknown"),
        ({"keep": {"motion": {"min": "a"}}}, "keep.motion.min is 'a'; expected a number"),
        ({"keep": {"motion": {"otherwise": "mend"}}}, "only sync_offset can be mended"),
        ({"keep": {"motion": 3}}, "keep.motion is 3; expected a mapping"),
        ({"clips": {"frames": 0}}, "clips.frames is 0"),
        ({"val_share": 2}, "val_share is 2; expected a number from 0 to 1"),
        ({"duplicates": {"picture_print": 7}}, "duplicates.picture_print is 7"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_recipe("mine", {**RECIPE, "keep": {}, "duplicates": {}, **change})
    assert "\n" not in str(error.value)
