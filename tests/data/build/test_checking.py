"""`ovi-data check`: whole shards pass, and each thing that can be wrong with them is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.forks import warm_process
from helpers.latent_shards import write_shard
from helpers.small_videos import RATE, RECIPE, moving, noise, unnamed, write
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.checking.check import check
from ovi_lab.data.build.recipe import read_recipe
from ovi_lab.data.decode import array_members
from ovi_lab.data.index import read_index, write_index
from ovi_lab.data.shards import ShardReader, ShardWriter


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("built")
    for seed in range(3):
        write(folder / f"v{seed}.mp4", moving(seed))
        (folder / f"v{seed}.txt").write_text(f"video {seed}")
    recipe = read_recipe(
        "planted", {**RECIPE, "shard_bytes": 1, "steps": ["motion", "loudness", "fingerprints"]}
    )
    build(folder, out, recipe, BuildOptions(quiet=True))
    return out


@pytest.fixture
def shards(built_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built_once, tmp_path / "shards"))


def faults(*targets: Path | str) -> list[str]:
    return [str(fault) for fault in check([str(target) for target in targets], quiet=True).faults]


def rewritten(shard: Path, key: str, **members: bytes) -> None:
    """The shard with other members of a sample, and an index that fits it."""
    entries = read_index(shard).entries
    read = {entry.key: ShardReader().read(entry) for entry in entries}
    with ShardWriter(shard) as file:
        for name, own in read.items():
            file.write(name, {**own, **(members if name == key else {})})


@pytest.mark.slow
def test_a_whole_build_passes_by_one_and_by_two_processes(shards: Path, ovi_data: Callable[..., str]) -> None:
    printed = ovi_data("check", shards)
    assert "samples 3" in printed
    assert "compared indexes, SHA256SUMS, manifest.json, clips.jsonl faults 0" in printed
    warm_process()
    one, two = check([str(shards)], quiet=True), check([str(shards)], 2, quiet=True)
    assert (two.samples, two.picture, two.faults) == (3, pytest.approx(3.0), [])
    assert one.sound == two.sound == pytest.approx(3.0, abs=0.2)


@pytest.mark.slow
def test_changes_to_a_build_are_named(shards: Path, ovi_data: Callable[..., str]) -> None:
    first, second, third = (shards / f"train-0000{n}.tar" for n in range(3))
    about = json.loads(ShardReader().read(read_index(first).entries[0])["json"])
    rewritten(first, "v0-000", json=json.dumps({**about, "caption": "another"}).encode())
    long = {**about, "meta": {**about["meta"], "scores": {**about["meta"]["scores"], "seconds": 2.0}}}
    rewritten(second, "v1-000", json=json.dumps(long).encode())
    third.unlink()
    shutil.copy(first, shards / "train-00007.tar")
    shutil.copy(first.with_suffix(".index.json"), shards / "train-00007.index.json")
    printed = ovi_data("check", shards, code=1)
    assert "clips.jsonl: v0-000: caption, source, start or scores are others in train-00000.tar" in printed
    assert "train-00001.tar: v1-000: its picture lasts 1.000 s, by its record 2.000 s" in printed
    assert not unnamed(printed, "train-00002.tar", "train-00007.tar")
    assert "clips.jsonl: v2-000: it is not in train-00002.tar, where it should be" in printed
    assert "SHA256SUMS: train-00000.tar: has another sha256" in printed
    assert "SHA256SUMS: train-00007.tar: is not listed" in printed


def test_lists_that_say_otherwise(shards: Path) -> None:
    lines = (shards / "clips.jsonl").read_text().splitlines(True)
    (shards / "clips.jsonl").write_text(lines[0] + lines[0] + lines[1])
    found = "\n".join(faults(shards))
    assert "clips.jsonl: v0-000: its key appears twice" in found
    assert "train-00002.tar: v2-000: clips.jsonl does not name it as kept there" in found
    assert "SHA256SUMS: clips.jsonl: has another sha256" in found
    (shards / "clips.jsonl").write_text("[]\n")
    assert "clips.jsonl: (whole file): clips.jsonl, line 1: is no clip" in "\n".join(faults(shards))
    (shards / "SHA256SUMS").unlink()
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][0]["clips"] = 5
    (shards / "manifest.json").write_text(json.dumps(manifest))
    found = "\n".join(faults(shards))
    assert "its clips: 5, found 1" in found
    assert "SHA256SUMS: (whole file)" in found
    (shards / "manifest.json").unlink()
    assert "is not finished; run its ovi-data build again" in "\n".join(faults(shards))
    (shards / "manifest.json").write_text("{")
    assert "manifest.json: (whole folder)" in "\n".join(faults(shards))


def test_indexes_that_do_not_fit(shards: Path) -> None:
    first = shards / "train-00000.tar"
    index = first.with_suffix(".index.json")
    plain = json.loads(index.read_text())
    index.write_text(json.dumps({**plain, "samples": []}))
    assert "its index names other samples or places than the tar holds" in "\n".join(faults(first))
    index.write_text(json.dumps({**plain, "sha256": "0" * 64}))
    assert "its sha256 is not the one in its index" in "\n".join(faults(first))
    index.write_text("{}")
    assert "its index is damaged, or older than the shard" in "\n".join(faults(first))
    index.unlink()
    assert faults(first) == []
    first.write_bytes(b"no tar")
    assert "is not a tar file" in "\n".join(faults(first))


@pytest.mark.slow
def test_shards_of_pack_are_checked_without_a_manifest(tmp_path: Path, ovi_data: Callable[..., str]) -> None:
    folder = tmp_path / "in"
    write(folder / "a.mp4", moving(1, 40))
    (folder / "a.txt").write_text("a")
    for store in ("arrays", "mp4", "original"):
        options = ["--fps", 16, "--seconds", 1, "--size", "48x48", "--store", store]
        ovi_data(
            "pack", folder, tmp_path / "packed" / store, *(options if store != "original" else options[-2:])
        )
    printed = ovi_data("check", tmp_path / "packed")
    assert "shards 3" in printed
    assert "samples 5" in printed
    assert "compared indexes faults 0" in printed


def arrays(frames: int, samples: int) -> dict[str, bytes]:
    return dict(array_members("x", {}, moving(1, frames), 16.0, noise(samples / RATE), RATE))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (arrays(16, 9000), "its sound lasts 1.125 s, its picture 1.000 s"),
        (arrays(16, 2000), "k: its sound lasts 0.250 s, its picture 1.000 s"),
        ({"json": b'{"caption": "x"}', "mp4": b"none"}, "k: its video: cannot be decoded"),
        ({"json": b"{}", "mp4": b"none"}, 'its .json has no "caption" in words'),
        ({"json": b'{"caption": "x"}', "flac": b"none"}, "k: its sound: cannot be decoded"),
        ({"json": b'{"caption": "x"}', "latents.safetensors": b"none"}, "k: its latents cannot be read"),
    ],
)
def test_samples_that_are_bad(tmp_path: Path, members: dict[str, Any], message: str) -> None:
    shard = write_shard(tmp_path / "a.tar", {"k": members})
    assert message in "\n".join(faults(shard))


def test_a_stale_index_is_older_than_its_shard(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", {"k": arrays(16, 8000)})
    write_index(shard)
    assert faults(shard) == []
    os.utime(shard, ns=(2**62, 2**62))
    assert "its index is damaged, or older" in "\n".join(faults(shard))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "shard none does not exist"),
        (["."], ". holds no .tar; name a folder of shards, or a pattern of them"),
        ([".", "--workers", "0"], "--workers is 0; at least 1"),
        ([], "the following arguments are required: SHARDS"),
    ],
)
def test_slips_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ovi_data: Callable[..., str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in ovi_data("check", *arguments, code=2)


def test_silence_is_no_fault(tmp_path: Path) -> None:
    members = array_members("x", {}, moving(1, 16), 16.0, torch.zeros(RATE), RATE)
    assert faults(write_shard(tmp_path / "a.tar", {"k": dict(members)})) == []
