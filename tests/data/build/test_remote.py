"""Videos on a store, and shards to one: the bytes of a build from folder to folder."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from helpers.object_store import ObjectStore
from helpers.small_videos import digests
from ovi_lab.data import stores
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.items import WORK
from ovi_lab.data.build.recipe import Recipe
from ovi_lab.data.build.remote import upload
from ovi_lab.data.cli import main
from ovi_lab.data.shards import expand_shards
from ovi_lab.data.stores import RemoteShard
from ovi_lab.errors import UserError

QUIET = BuildOptions(quiet=True)
THERE = RemoteShard("s3://b/shards")


def lying(store: ObjectStore) -> dict[str, str]:
    """Digests of the shards' folder on the store."""
    found = {key: data for key, data in store.objects.items() if key.startswith("shards/")}
    return {key.removeprefix("shards/"): hashlib.sha256(data).hexdigest() for key, data in found.items()}


@pytest.mark.slow
def test_from_store_to_store_the_bytes_are_those_of_folders(
    store: ObjectStore, recipe: Recipe, once: dict[str, str], tmp_path: Path
) -> None:
    store.objects["videos/notes/readme.md"] = b"no video"
    store.faults = [503]  # the first reading request is repeated
    built, _ = build(RemoteShard("s3://b/videos"), tmp_path, recipe, QUIET)
    assert (built.sources, built.failed) == (4, {})
    assert digests(tmp_path) == once
    assert not list(tmp_path.glob("**/*.mp4"))
    reads = len(store.reads())
    build(RemoteShard("s3://b/videos"), tmp_path, recipe, QUIET)
    assert {key for key, _ in store.reads()[reads:]} == {f"videos/v{n}.txt" for n in range(4)}

    store.objects |= {
        "shards/train-00007.tar": b"stale",
        "shards/mine.txt": b"kept",
        "shards/manifest.json": b"old",
    }
    store.faults = [
        None,
        None,
        503,
        503,
    ]  # after shard and index a file cannot be written, nor at the second attempt
    with pytest.raises(
        UserError, match=r"s3://b/shards/.* cannot be written after 2 attempts .*with the same command"
    ):
        upload(tmp_path, tmp_path / WORK, THERE, quiet=True)
    assert "manifest.json" not in lying(store)
    assert "train-00007.tar" not in lying(store)
    written = sum(method == "PUT" for method, *_ in store.seen)
    assert upload(tmp_path, tmp_path / WORK, THERE, quiet=True) == len(once) - 2
    assert sum(method == "PUT" for method, *_ in store.seen) - written == len(once) - 2
    assert [key for method, key, _ in store.seen if method == "PUT"][-2:] == [
        "shards/manifest.json", "shards/SHA256SUMS",
    ]  # fmt: skip
    assert {name: sha for name, sha in lying(store).items() if name != "mine.txt"} == once
    build(RemoteShard("s3://b/videos"), tmp_path, recipe, QUIET)
    assert upload(tmp_path, tmp_path / WORK, THERE, quiet=True) == 0
    assert [str(shard) for shard in expand_shards("s3://b/shards/train-*.tar")] == [
        "s3://b/shards/train-00000.tar"
    ]


@pytest.mark.slow
def test_what_a_user_types(
    videos: Path,
    once: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From a folder to another by its address, as to any store."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "clips: {frames: 16, fps: 16, pixels: 2304, multiple: 16}\nsteps: {motion: {}}\nwithout_caption: empty\n"
    )
    there = f"file://{tmp_path}/there"
    words = ["build", f"file://{videos}", there, "--recipe", str(recipe)]
    assert main(words) == 2
    assert "needs --work DIR" in capsys.readouterr().err
    assert main([*words, "--work", str(tmp_path / "here")]) == 0
    assert "4 kept" in (printed := capsys.readouterr().out)
    assert "5 files to" in printed
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    shutil.rmtree(tmp_path / "there")


def test_a_store_without_videos_and_one_that_is_not_there(
    store: ObjectStore, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no .*\.mp4.* file is below s3://b/nothing"):
        build(RemoteShard("s3://b/nothing"), tmp_path, recipe, QUIET)
    with pytest.raises(UserError, match="nope:// is no store that fsspec knows"):
        build(RemoteShard("nope://b/nothing"), tmp_path, recipe, QUIET)


@pytest.mark.slow
def test_names_that_climb_are_counted_and_files_that_vanish(
    store: ObjectStore, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.objects |= {"videos/a\nb.mp4": b"x", "videos/z.mp4": store.objects["videos/v0.mp4"]}
    found = stores.files_below

    def vanishing(folder: RemoteShard) -> object:
        below = found(folder)
        store.objects.pop("videos/z.mp4")
        return below

    monkeypatch.setattr("ovi_lab.data.build.remote.files_below", vanishing)
    built, _ = build(RemoteShard("s3://b/videos"), tmp_path, recipe, QUIET)
    assert built.failed == {
        "a\nb.mp4": "it has an unsafe name (empty or unprintable)", "z.mp4": "its store has it no longer",
    }  # fmt: skip
    assert built.clips == 4
