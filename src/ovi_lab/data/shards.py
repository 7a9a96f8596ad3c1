"""WebDataset shards: plain tar files of samples, written whole with an index beside them, and read at random.

A sample is a run of members that share a key: `<key>.json` (caption and what is known of the clip) beside
media (`<key>.mp4`, or the lossless `<key>.frames.npy` and `<key>.wave.npy`) or `<key>.latents.safetensors`.
The index `<shard>.index.json` says where each member's bytes lie, so that a sample is read without reading
those before it. Any WebDataset tar will do: where the index is absent or does not fit, the tar's headers are
read once instead.

Members are read as bytes and never unpacked to disk; names that could leave a folder, and links, are refused
all the same, for whatever else may read the shard.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from ovi_lab.errors import UserError

INDEX_FORMAT = "ovi_lab.shard_index/1"


class BadSampleError(Exception):
    """One sample cannot be used: the message says why.

    Counted, named and skipped, or raised, as the user chose.
    """


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used, or a member that belongs to none."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.key}: {self.reason}"


@dataclass(frozen=True)
class Entry:
    """Where a sample's members lie: extension -> (offset, size) in bytes of the shard."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]


@dataclass
class ShardIndex:
    """What a shard holds: its usable samples in the order of the file, and what is wrong with the rest."""

    path: Path
    size: int
    entries: list[Entry]
    bad: list[BadSample] = field(default_factory=list)
    sha256: str | None = None


def index_path(shard: Path) -> Path:
    """`train-000.tar` -> `train-000.index.json`."""
    return shard.with_name(shard.name.removesuffix(".tar") + ".index.json")


def expand_shards(patterns: str | Path | Sequence[str | Path]) -> list[Path]:
    """Shards named by one pattern or several, in the order given.

    Braces are expanded (`train-{000..003}.tar`), and every shard named so must exist; `*` and `?` stand for what is
    there (`train-*.tar`), by name.

    Raises:
        UserError: nothing was named, or a shard does not exist.
    """
    from braceexpand import braceexpand

    listed = [patterns] if isinstance(patterns, str | Path) else list(patterns)
    try:
        names = [name for pattern in listed for name in braceexpand(str(pattern))]
    except ValueError as error:  # braces that do not pair
        raise UserError(f"the shards {patterns!r}: {error}; write train-{{000..003}}.tar") from error
    paths = [path for name in names for path in _globbed(Path(name).expanduser())]
    if not paths:
        raise UserError("no shards were named: give a pattern such as data/train-{000..003}.tar")
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        count = "" if len(missing) == 1 else f" and {len(missing) - 1} more of {len(paths)}"
        raise UserError(f"shard {missing[0]}{count} does not exist; check the pattern {patterns!s}")
    return paths


def _globbed(path: Path) -> list[Path]:
    """What a name with `*` or `?` stands for; the name itself where it has none or nothing fits."""
    if not any(sign in path.name for sign in "*?"):
        return [path]
    return sorted(path.parent.glob(path.name)) or [path]


class ShardWriter:
    """Writes one shard: to a temporary name, renamed when whole, then its index.

        with ShardWriter(path) as shard:
            shard.write("clip-000", {"json": b"{}", "mp4": data})

    Leaves nothing behind where the block fails. The bytes depend on the samples alone.
    """

    def __init__(self, path: str | Path) -> None:
        from webdataset import TarWriter

        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file = _Sink(self._temporary)
        self._tar = TarWriter(self._file, encoder=False, mtime=0, user="", group="", compress=False)
        self.count = 0

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """One sample: extension -> bytes."""
        reason = unsafe_name(key)
        if reason or "." in PurePosixPath(key).name:
            raise UserError(f"{key!r} cannot be a sample's key: {reason or 'a key holds no dot'}")
        with _no_space(self.path):
            self._tar.write({"__key__": key, **members})
        self.count += 1

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with _no_space(self.path):
                    self._tar.close()
                    self._file.close()
                    index_path(self.path).unlink(missing_ok=True)
                    self._temporary.replace(self.path)
                    write_index(self.path)
        finally:
            with suppress(OSError):  # on a full disk closing fails as writing did, which is said already
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def write_shards(
    prefix: Path, samples: Iterator[tuple[str, Mapping[str, bytes]]], clips_per_shard: int
) -> list[Path]:
    """Shards `<prefix>-000.tar`, … of (key, members); the paths in order. One sample is held at a time."""
    paths: list[Path] = []
    for first in samples:
        path = prefix.with_name(f"{prefix.name}-{len(paths):03d}.tar")
        with ShardWriter(path) as shard:
            for key, members in chain([first], islice(samples, clips_per_shard - 1)):
                shard.write(key, members)
        paths.append(path)
    return paths


class _Sink:
    """A file that takes no more once closed: a tar stream given up still empties its buffer when it is
    deleted.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def write(self, data: bytes) -> int:
        return len(data) if self.file.closed else self.file.write(data)

    def close(self) -> None:
        self.file.close()


class _no_space:  # noqa: N801 - used as a statement
    """Says in one line what could not be written where the disk is full."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left on the disk while writing {self.path}; free some, or choose another folder"
            ) from error


def write_index(shard: Path) -> ShardIndex:
    """Scan a whole shard and write its index beside it."""
    index = scan_shard(shard)
    index.sha256 = file_sha256(shard)
    content = {
        "format": INDEX_FORMAT,
        "shard": shard.name,
        "size": index.size,
        "sha256": index.sha256,
        "samples": [
            {"key": e.key, "members": {k: list(v) for k, v in e.members.items()}} for e in index.entries
        ],
        "bad": [[b.key, b.reason] for b in index.bad],
    }
    write_atomically(index_path(shard), json.dumps(content).encode())
    return index


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _no_space(path):
            temporary.write_bytes(content)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_index(shard: Path) -> ShardIndex:
    """The shard's samples: from the index beside it where that fits the file, else from the tar's own
    headers.
    """
    beside = index_path(shard)
    # Tar files are padded to 10 KiB: one written anew can have the old size, so it must not be newer.
    if beside.is_file() and beside.stat().st_mtime_ns >= shard.stat().st_mtime_ns:
        try:
            index = _parse_index(shard, json.loads(beside.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError):
            index = None  # a foreign or damaged index: the tar itself says what it holds
        if index is not None:
            return index
    return scan_shard(shard)


def _parse_index(shard: Path, content: Mapping[str, Any]) -> ShardIndex | None:
    size = shard.stat().st_size
    if content["format"] != INDEX_FORMAT or content["size"] != size:
        return None
    entries = []
    for sample in content["samples"]:
        members = {str(k): (int(v[0]), int(v[1])) for k, v in sample["members"].items()}
        if any(offset < 0 or length < 0 or offset + length > size for offset, length in members.values()):
            return None
        entries.append(Entry(shard, str(sample["key"]), members))
    bad = [BadSample(shard.name, str(key), str(reason)) for key, reason in content["bad"]]
    return ShardIndex(shard, size, entries, bad, str(content["sha256"]))


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
    return ShardIndex(
        shard, size, entries, [BadSample(shard.name, k, why) for k, why in found.broken.items()]
    )


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


class ShardReader:
    """Reads members' bytes at their offsets; the open files are each process's own."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._owner = os.getpid()

    def read(self, entry: Entry) -> dict[str, bytes]:
        """All members of a sample. Raises BadSampleError where bytes are missing or cannot be read."""
        members = {}
        for extension, (offset, size) in entry.members.items():
            try:
                data = os.pread(self._open(entry.shard), size, offset)
            except OSError as error:
                raise BadSampleError(f"its .{extension} cannot be read ({error.strerror})") from error
            if len(data) != size:
                raise BadSampleError(f"the shard is truncated inside its .{extension}")
            members[extension] = data
        return members

    def _open(self, shard: Path) -> int:
        if (
            self._owner != os.getpid()
        ):  # a worker has its parent's table: same descriptors, but let it open its own
            self._files, self._owner = {}, os.getpid()
        if shard not in self._files:
            self._files[shard] = os.open(shard, os.O_RDONLY)
        return self._files[shard]

    def close(self) -> None:
        for descriptor in self._files.values() if self._owner == os.getpid() else ():
            os.close(descriptor)
        self._files = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": {}, "_owner": -1}

    def __del__(self) -> None:
        self.close()


def total_bytes(entries: Iterable[Entry]) -> int:
    """Bytes of all members together."""
    return sum(size for entry in entries for _, size in entry.members.values())
