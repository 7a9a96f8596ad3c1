"""What a shard holds and where: from the index beside it, or from the tar's own headers.

The index `<shard>.index.json` says where each member's bytes lie, so that a sample is read without reading those
before it; of latents also their shapes and what encoded them, so that batches are planned without reading samples.
Any WebDataset tar will do: where the index is absent or does not fit, the headers of the tar and of its latents are
read once instead.

Names that could leave a folder, and links, are refused, though members are never unpacked to disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ovi_lab.errors import UserError

INDEX_FORMAT = "ovi_lab.shard_index/1"
LATENTS = "latents.safetensors"
LATENT_PARTS = ("video", "audio", "text")
_HEAD = 4096  # bytes read of a latents member at once: its header is a few hundred
_MAX_HEADER = 2**20

Shapes = dict[str, tuple[int, ...]]


class BadSampleError(Exception):
    """One sample cannot be used: the message says why.

    Counted, named and skipped, or raised, as the user chose.
    """


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that cannot be used, or a member that belongs to none."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.key}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a sample's members lie: extension -> (offset, size) in bytes of the shard.

    `shapes`: of its latents, `video` [C,F,h,w], `audio` [L,C], `text` [n,E], those that are there; None where it has
    none, or their header cannot be read (which reading the sample tells).
    """

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]
    shapes: Shapes | None = None


@dataclass
class ShardIndex:
    """What a shard holds: its usable samples in the order of the file, and what is wrong with the rest.

    `encoders`: by kind of latents, what made them ("wan22 sha256:…"), where their samples say so; `made`: how the
    whole shard came to be, where its writer said so.
    """

    path: Path
    size: int
    entries: list[Entry]
    bad: list[BadSample] = field(default_factory=list)
    sha256: str | None = None
    encoders: dict[str, list[str]] = field(default_factory=dict)
    made: dict[str, Any] | None = None


def index_path(shard: Path) -> Path:
    """`train-000.tar` -> `train-000.index.json`."""
    return shard.with_name(shard.name.removesuffix(".tar") + ".index.json")


def write_index(shard: Path, made: Mapping[str, Any] | None = None) -> ShardIndex:
    """Scan a whole shard and write its index beside it; `made` says how the shard came to be."""
    index = scan_shard(shard)
    index.sha256 = file_sha256(shard)
    index.made = None if made is None else dict(made)
    content = {
        "format": INDEX_FORMAT,
        "shard": shard.name,
        "size": index.size,
        "sha256": index.sha256,
        "encoders": index.encoders,
        **({} if index.made is None else {"made": index.made}),
        "samples": [_as_json(entry) for entry in index.entries],
        "bad": [[b.key, b.reason] for b in index.bad],
    }
    write_atomically(index_path(shard), json.dumps(content).encode())
    return index


def _as_json(entry: Entry) -> dict[str, Any]:
    members = {name: list(place) for name, place in entry.members.items()}
    shapes = {} if entry.shapes is None else {"shapes": {k: list(v) for k, v in entry.shapes.items()}}
    return {"key": entry.key, "members": members, **shapes}


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with no_space(path):
            temporary.write_bytes(content)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def no_space(path: Path) -> Iterator[None]:
    """Says in one line what could not be written where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left on the disk while writing {path}; free some, or choose another folder"
        ) from error


def read_index(shard: Path) -> ShardIndex:
    """The shard's samples: from the index beside it where that fits the file, else from the tar's own
    headers.
    """
    index = stored_index(shard)
    if index is None:
        return scan_shard(shard)
    return index


def stored_index(shard: Path) -> ShardIndex | None:
    """The index beside a shard; None where it is absent or does not fit the file."""
    beside = index_path(shard)
    # Tar files are padded to 10 KiB: one written anew can have the old size, so it must not be newer.
    if not beside.is_file() or beside.stat().st_mtime_ns < shard.stat().st_mtime_ns:
        return None
    try:
        return _parse_index(shard, json.loads(beside.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None  # a foreign or damaged index: the tar itself says what it holds


def _parse_index(shard: Path, content: Mapping[str, Any]) -> ShardIndex | None:
    size = shard.stat().st_size
    if content["format"] != INDEX_FORMAT or content["size"] != size:
        return None
    entries = []
    for sample in content["samples"]:
        members = {str(k): (int(v[0]), int(v[1])) for k, v in sample["members"].items()}
        if any(offset < 0 or length < 0 or offset + length > size for offset, length in members.values()):
            return None
        shapes = sample.get("shapes")
        if shapes is not None:
            shapes = {str(k): tuple(map(int, v)) for k, v in shapes.items()}
        entries.append(Entry(shard, str(sample["key"]), members, shapes))
    bad = [BadSample(shard.name, str(key), str(reason)) for key, reason in content["bad"]]
    index = ShardIndex(shard, size, entries, bad, str(content["sha256"]), made=content.get("made"))
    if "encoders" in content:
        index.encoders = {str(k): [str(e) for e in v] for k, v in content["encoders"].items()}
    else:  # written before indexes told of latents
        index.entries, index.encoders = _with_latents_headers(shard, entries)
    return index


def scan_shard(shard: Path) -> ShardIndex:
    """Read a tar's headers: samples in order, and what cannot be used, each with the reason.

    Raises:
        UserError: the file is no plain tar at all.
    """
    size = shard.stat().st_size
    found = _Found(shard.name, size)
    try:
        with tarfile.open(shard, "r:") as tar:
            while True:
                try:
                    info = tar.next()
                except (tarfile.TarError, OSError):
                    break  # where the file was cut; what follows says so
                if info is None:
                    break
                found.add(info)
            end = tar.offset
    except tarfile.ReadError as error:
        with shard.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        reason = "is compressed; unpack it first" if packed else f"is not a tar file ({error})"
        raise UserError(f"shard {shard} {reason}") from error
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(512) != bytes(512):
            found.cut()
    entries = [
        Entry(shard, key, members) for key, members in found.samples.items() if key not in found.broken
    ]
    entries, encoders = _with_latents_headers(shard, entries)
    bad = [BadSample(shard.name, k, why) for k, why in found.broken.items()]
    return ShardIndex(shard, size, entries, bad, encoders=encoders)


def _with_latents_headers(shard: Path, entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, list[str]]]:
    """The entries with the shapes of their latents, and what encoded those, read from the samples' headers."""
    encoders: dict[str, set[str]] = {}
    described = []
    with shard.open("rb") as file:
        for entry in entries:
            if LATENTS in entry.members:
                entry = replace(entry, shapes=_header_shapes(file.fileno(), *entry.members[LATENTS]))
                for part, encoder in _said_encoders(file.fileno(), entry.members.get("json")).items():
                    encoders.setdefault(part, set()).add(encoder)
            described.append(entry)
    return described, {part: sorted(found) for part, found in sorted(encoders.items())}


def _header_shapes(descriptor: int, offset: int, size: int) -> Shapes | None:
    """The shapes that a safetensors member states, without its data; None where its header cannot be read."""
    head = os.pread(descriptor, min(size, _HEAD), offset)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
        return None
    if length > len(head) - 8:
        head = os.pread(descriptor, length + 8, offset)
    try:
        header = json.loads(head[8 : 8 + length])
        return {part: tuple(map(int, header[part]["shape"])) for part in LATENT_PARTS if part in header}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _said_encoders(descriptor: int, place: tuple[int, int] | None) -> dict[str, str]:
    if place is None:
        return {}
    try:
        said = json.loads(os.pread(descriptor, place[1], place[0])).get("encoded_by", {})
        return {part: str(said[part]) for part in LATENT_PARTS if part in said}
    except (ValueError, TypeError, AttributeError):
        return {}


class _Found:
    """The members met so far, by sample, and what is wrong with some."""

    def __init__(self, shard: str, size: int) -> None:
        self.shard, self.size = shard, size
        self.samples: dict[str, dict[str, tuple[int, int]]] = {}
        self.broken: dict[str, str] = {}
        self.last = ""

    def add(self, info: tarfile.TarInfo) -> None:
        if info.isdir():
            return
        reason = unsafe_name(info.name)
        if not reason and not info.isreg():
            reason = "is a link or a device, not a file"
        if reason:
            self.broken[info.name] = reason
            return
        key, extension = split_name(info.name)
        if not key or not extension:
            return  # not part of a sample, by WebDataset's naming
        members = self.samples.setdefault(key, {})
        if members and key != self.last:
            self.broken[key] = "its key appears twice in the shard"
        elif extension in members:
            self.broken[key] = f"has two members .{extension}"
        elif info.offset_data + info.size > self.size:
            self.broken[key] = f"the shard is truncated inside its .{extension}"
        members[extension] = (info.offset_data, info.size)
        self.last = key

    def cut(self) -> None:
        """The tar has no end: what came after the last member, maybe of the last sample, is lost."""
        if not any("truncated" in reason for reason in self.broken.values()):
            after = f"after {self.last}" if self.last else "at its start"
            self.broken["(end)"] = f"the shard is truncated {after}"


def split_name(name: str) -> tuple[str, str]:
    """`a/b.frames.npy` -> (`a/b`, `frames.npy`): WebDataset's rule, the first dot of the last part."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    if not stem:
        return "", ""
    folder = str(path.parent)
    return (stem if folder == "." else f"{folder}/{stem}"), extension


def unsafe_name(name: str) -> str:
    """Why a member of that name must not be read, or nothing."""
    if name.startswith("/") or "\\" in name or (len(name) > 1 and name[1] == ":"):
        return "an unsafe member name (absolute)"
    if ".." in PurePosixPath(name).parts:
        return "an unsafe member name (it climbs out with ..)"
    return "" if name and name.isprintable() else "an unsafe member name (empty or unprintable)"


def file_sha256(path: Path) -> str:
    """Hexadecimal digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
