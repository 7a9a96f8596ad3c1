"""`ovi-data captions --join` that is killed: the same bytes in the end, and nothing half-written between."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.chat_server import GOOD
from helpers.forks import Fork
from helpers.small_videos import RECIPE, digests, moving, write
from ovi_lab.data.build import assemble
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.captioning.assembled import taken_up
from ovi_lab.data.build.captioning.join import join
from ovi_lab.data.build.recipe import read_recipe
from ovi_lab.data.cli import main
from ovi_lab.data.decode import read_media
from ovi_lab.data.index import read_index
from ovi_lab.data.shards import ShardReader


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips without a caption, and one with."""
    folder, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("built")
    for seed, name in enumerate(("a", "b", "told")):
        write(folder / f"{name}.mp4", moving(seed))
    (folder / "told.txt").write_text("Colours wander. Audio: hiss")
    plain = {**RECIPE, "without_caption": "drop", "keep": {}, "steps": []}
    build(folder, out, read_recipe("planted", {**plain, "duplicates": {}}), BuildOptions(quiet=True))
    return out


@pytest.fixture
def shards(built_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built_once, tmp_path / "shards"))


def captions_in(shards: Path) -> dict[str, str]:
    """By key, as a loader reads them."""
    entries = [entry for shard in sorted(shards.glob("*.tar")) for entry in read_index(shard).entries]
    return {entry.key: read_media(ShardReader().read(entry)).caption for entry in entries}


def join_alone(shards: Path, table: Path) -> None:
    """A command as a process of its own."""
    with taken_up(shards) as assembly:
        join(assembly, table)
        assembly.write()


def joined_until(shards: Path, table: Path, seconds: float) -> None:
    """The command, killed after so many seconds."""
    fork, begun = Fork(join_alone, shards, table), time.monotonic()
    while fork.code is None and time.monotonic() - begun < seconds:
        time.sleep(0.005)
    fork.signal(signal.SIGKILL)
    fork.process.join(60)


@pytest.mark.slow
def test_kills_of_a_join_change_no_byte(shards: Path, tmp_path: Path) -> None:
    """At moments drawn from the time that a whole one takes; whatever lies there between is read as it was written."""
    table = tmp_path / "captions.jsonl"
    table.write_text("".join(json.dumps({"id": key, "caption": GOOD}) + "\n" for key in ("a-000", "b-000")))
    whole = Path(shutil.copytree(shards, tmp_path / "whole"))
    assert Fork(join_alone, whole, table).wait() == 0  # with the start of the process that is forked
    begun = time.monotonic()
    assert Fork(join_alone, whole, table).wait() == 0
    longest, draw = time.monotonic() - begun, random.Random(0)
    builds = (digests(shards), digests(whole))
    for _ in range(10):
        joined_until(shards, table, draw.uniform(0.0, 1.0) * longest)
        found = digests(shards)
        assert found["train-00000.tar"] in {own["train-00000.tar"] for own in builds}
        assert len(captions_in(shards)) in (1, 3)
        if "SHA256SUMS" in found:
            assert found in builds
    assert (last := Fork(join_alone, shards, table)).wait() == 0, last.output
    assert digests(shards) == digests(whole)
    assert not list(shards.glob(".shards*"))


@pytest.mark.parametrize("placed", range(6))
def test_a_kill_between_two_files_goes_on(
    shards: Path, placed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ovi_data: Callable[..., str]
) -> None:
    """While shards take their places: before any has, after each of the five, and before what is empty is removed."""
    table = tmp_path / "captions.csv"
    table.write_text(f"id,caption\na-000,{GOOD}\n")
    whole = Path(shutil.copytree(shards, tmp_path / "whole"))
    ovi_data("captions", whole, "--join", table)
    real, moved = Path.replace, []

    def killed(path: Path, to: Path) -> Path:
        if path.parent.name == assemble.READY:
            if len(moved) == placed:
                raise KeyboardInterrupt
            moved.append(path.name)
        return real(path, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        if placed < 5:
            assert main(["captions", str(shards), "--join", str(table)]) == 130
        else:
            patched.setattr(assemble.shutil, "rmtree", lambda *_, **__: None)
            assert main(["captions", str(shards), "--join", str(table)]) == 0
    order = ["train-00000.tar", "train-00000.index.json", "clips.jsonl", "manifest.json", "SHA256SUMS"]
    assert moved == order[:placed]
    assert set(captions_in(shards)) == ({"a-000", "told-000"} if placed else {"told-000"})
    assert (shards / "manifest.json").is_file() == (placed in (4, 5))
    if placed < 4:
        assert "is not finished" in ovi_data("report", shards, code=2)
    ovi_data("captions", shards, "--join", table)
    assert digests(shards) == digests(whole)
    assert not (shards / assemble.READY).exists()
