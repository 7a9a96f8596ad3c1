"""Shards of strangers: `ovi-data check` names members that could leave a folder, and writes nothing."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.object_store import ObjectStore
from helpers.small_videos import RATE, moving, noise
from ovi_eval.common.shown import shown
from ovi_lab.data.decode import array_members

KINDS = {
    "link": (tarfile.SYMTYPE, "../../outside"),
    "absolute_link": (tarfile.SYMTYPE, "/etc/passwd"),
    "hard_link": (tarfile.LNKTYPE, "good.json"),
    "character_device": (tarfile.CHRTYPE, ""),
    "block_device": (tarfile.BLKTYPE, ""),
    "pipe": (tarfile.FIFOTYPE, ""),
}
NAMES = {
    "../x.json": "an unsafe member name (it climbs out with ..)",
    "a/../../x.mp4": "an unsafe member name (it climbs out with ..)",
    "/tmp/x.json": "an unsafe member name (absolute)",
    "C:\\x.json": "an unsafe member name (absolute)",
    "a\nb.json": "an unsafe member name (empty or unprintable)",
}


def strange(place: Path) -> Path:
    """A tar with a good sample, a member of each name in NAMES, and one of each kind in KINDS; no index."""
    with tarfile.open(place, "w") as tar:
        for extension, data in array_members("x", {}, moving(1, 16), 16.0, noise(1.0), RATE).items():
            _add(tar, f"good.{extension}", bytes(data))
        for name in NAMES:
            _add(tar, name, b"{}")
        for name, (kind, target) in KINDS.items():
            member = tarfile.TarInfo(f"{name}.json")
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return place


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["folder", "pattern", "store"])
def test_members_that_could_leave_a_folder_are_a_line_each(
    kind: str,
    tmp_path: Path,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    ovi_data: Callable[..., str],
) -> None:
    cache, inner = tmp_path / "cache", tmp_path / "in" / "ner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setenv("OVI_DATA_CACHE", str(cache))
    shard = strange(inner / "mine-000.tar")
    target = {"folder": str(inner), "pattern": "mine-*.tar", "store": "s3://b/strange"}[kind]
    if kind == "store":
        store.objects["strange/mine-000.tar"] = shard.read_bytes()
    before, objects = everything(tmp_path / "in"), dict(store.objects)
    printed = ovi_data("check", target, code=1)
    assert "samples 1" in printed
    assert f"faults {len(NAMES) + len(KINDS)}" in printed
    for name, reason in NAMES.items():
        assert f"mine-000.tar: {shown(name)}: {reason}" in printed
    for name in KINDS:
        assert f"mine-000.tar: {name}.json: is a link or a device, not a file" in printed
    assert everything(tmp_path / "in") == before
    assert store.objects == objects
    assert not [path for path in tmp_path.iterdir() if path not in (cache, tmp_path / "in")]


def test_a_build_of_strangers_leads_nowhere_else(tmp_path: Path, ovi_data: Callable[..., str]) -> None:
    """Manifest, list of clips and sums that name files outside of their folder."""
    folder = tmp_path / "built"
    folder.mkdir()
    (tmp_path / "outside.tar").write_bytes(b"mine")
    shard = {"name": "../outside.tar", "clips": 1, "bytes": 4, "sha256": "0" * 64}
    manifest = {
        "format": "ovi_lab.build/1",
        "recipe": {"name": "x"},
        **{part: {} for part in ("steps", "sources", "clips", "captions")},
        "not_applied": [],
        "shards": [shard],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    row = {"key": "../k", "source": "../../v.mp4", "start_s": 0.0, "split": "train", "kept": True}
    row |= {"shard": "../outside.tar", "scores": {"seconds": 1.0}, "facts": {}, "caption": "x"}
    (folder / "clips.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ../outside.tar\n")
    printed = ovi_data("check", folder, code=1)
    assert "manifest.json: ../outside.tar: the shard is missing" in printed
    assert "../outside.tar: is no line of a digest and a name" in printed
    assert "clips.jsonl: ../k: it is not in ../outside.tar, where it should be" in printed
    printed = ovi_data("report", folder, "--videos", tmp_path)
    assert "clips 1, 0 of them play on the page" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "outside.tar"]
