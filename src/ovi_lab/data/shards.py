"""WebDataset shards: plain tar files of samples, written whole with an index beside them, and read at random.

A sample is a run of members that share a key: `<key>.json` (caption and what is known of the clip) beside
media (`<key>.mp4`, or the lossless `<key>.frames.npy` and `<key>.wave.npy`) or `<key>.latents.safetensors`.
"""

from __future__ import annotations

import errno
import os
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from ovi_eval.common.plain_data import MAX_BYTES
from ovi_eval.common.shown import shown
from ovi_lab.data.index import (
    BadSampleError,
    SampleEntry,
    index_path,
    no_space,
    split_name,
    unsafe_name,
    write_index,
)
from ovi_lab.data.shard_files import RangeFile, Shard, ShardFile, open_shard
from ovi_lab.data.stores import RemoteShard, is_remote, listed_shards
from ovi_lab.data.tar_headers import BLOCK, parse_header
from ovi_lab.errors import UserError

MAX_OPEN = 128  # shards that one reader holds open: a process may often have 1024 files in all
Members = Mapping[str, bytes | Path]
"""Extension -> a member's bytes, or the file that holds them."""
MAX_MEMBER = 2**31 - 4096  # bytes: what one read of Linux gives


def expand_shards(patterns: str | Path | RemoteShard | Sequence[str | Path | RemoteShard]) -> list[Shard]:
    """Shards named by one pattern or several, in the order given.

    Braces are expanded (`train-{000..003}.tar`), and every shard named so must exist; `*` and `?` stand for what is
    there (`train-*.tar`), by name. Addresses (`s3://bucket/train-{000..003}.tar`) and commands (`pipe:…`) may be among
    them; whether those exist is found out when they are read.

    Raises:
        UserError: nothing was named, or a shard does not exist, or a store cannot be listed.
    """
    from braceexpand import braceexpand

    listed = [patterns] if isinstance(patterns, str | Path | RemoteShard) else list(patterns)
    try:
        names = [
            name
            for pattern in listed
            for name in braceexpand(pattern.url if isinstance(pattern, RemoteShard) else str(pattern))
        ]
    except ValueError as error:  # braces that do not pair
        raise UserError(f"the shards {patterns!r}: {error}; write train-{{000..003}}.tar") from error
    paths: list[Shard] = []
    for name in names:
        paths += listed_shards(name) if is_remote(name) else _globbed(Path(name).expanduser())
    if not paths:
        raise UserError("no shards were named: give a pattern such as data/train-{000..003}.tar")
    missing = [str(path) for path in paths if isinstance(path, Path) and not path.is_file()]
    if missing:
        count = "" if len(missing) == 1 else f" and {len(missing) - 1} more of {len(paths)}"
        named = (
            patterns if isinstance(patterns, str | Path | RemoteShard) else ", ".join(map(str, listed[:3]))
        )
        if Path(missing[0]).is_dir():
            raise UserError(
                f"{shown(missing[0])} is a folder; name the shards in it, as '{shown(missing[0])}/*.tar'"
            )
        raise UserError(f"shard {shown(missing[0])}{count} does not exist; check the pattern {named}")
    return paths


def _globbed(path: Path) -> list[Path]:
    """What a name with `*` or `?` stands for; the name itself where it has none or nothing fits."""
    if not any(sign in path.name for sign in "*?"):
        return [path]
    return sorted(path.parent.glob(path.name)) or [path]


def numbered_shards(prefix: Path) -> list[Path]:
    """The shards `<prefix>-000.tar`, … that are there, whatever their number of digits; no others."""
    if not prefix.parent.is_dir():
        return []
    return [prefix.parent / name for name in numbered((f.name for f in prefix.parent.iterdir()), prefix.name)]


def numbered(names: Iterable[str], prefix: str) -> list[str]:
    """Of the names those of the shards `<prefix>-000.tar`, …, sorted."""
    named = re.compile(re.escape(prefix) + r"-\d{3,}\.tar")
    return sorted(name for name in names if named.fullmatch(name))


def remove_shard(path: Path) -> None:
    """A shard and its index, the shard first: so that an index is never that of another shard."""
    path.unlink(missing_ok=True)
    index_path(path).unlink(missing_ok=True)


class ShardWriter(AbstractContextManager["ShardWriter"]):
    """Writes one shard: to a temporary name, renamed when whole, then its index.

        with ShardWriter(path) as shard:
            shard.write("clip-000", {"json": b"{}", "mp4": data})

    Leaves nothing behind where the block fails. The bytes depend on the samples alone. `made`, plain values that say
    how the shard came to be, goes into the index.
    """

    def __init__(self, path: str | Path, made: Mapping[str, Any] | None = None) -> None:
        from webdataset import TarWriter

        self.path, self.made = Path(path), made
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file = _Sink(self._temporary)
        self._tar = TarWriter(self._file, encoder=False, mtime=0, user="", group="", compress=False)
        self.count = 0

    def write(self, key: str, members: Members) -> None:
        """One sample: extension -> bytes, or a file whose bytes are copied."""
        reason = unsafe_name(key)
        if reason or "." in PurePosixPath(key).name:
            raise UserError(f"{key!r} cannot be a sample's key: {reason or 'a key holds no dot'}")
        with no_space(self.path):
            for extension, data in sorted(members.items()):
                if isinstance(data, Path):
                    self._copy(f"{key}.{extension}", data)
                else:
                    self._tar.write({"__key__": key, extension: data})
        self.count += 1

    def _copy(self, name: str, path: Path) -> None:
        """A file's bytes, without holding them, under a header such as webdataset's writer makes."""
        info = tarfile.TarInfo(name)
        info.mode = self._tar.mode
        with path.open("rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            self._tar.tarstream.addfile(info, file)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                with no_space(self.path):
                    self._tar.close()
                    self._file.close()
                    index_path(self.path).unlink(missing_ok=True)
                    self._temporary.replace(self.path)
                    write_index(self.path, self.made)
        finally:
            with suppress(OSError):  # on a full disk closing fails as writing did, which is said already
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def write_shards(prefix: Path, samples: Iterator[tuple[str, Members]], clips_per_shard: int) -> list[Path]:
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
    """A file that ignores writes once closed: an abandoned tar stream still flushes its buffer when it is deleted."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def write(self, data: bytes) -> int:
        return len(data) if self.file.closed else self.file.write(data)

    def close(self) -> None:
        self.file.close()


class ShardReader:
    """Reads members' bytes at their offsets; the open files are each process's own.

    Args:
        expected: the facts (`shard_facts`) of shards when their indexes were read. One that differs later, or is
            gone, stops everything: its index is out of date.
    """

    def __init__(self, expected: Mapping[Shard, tuple[int, int]] | None = None) -> None:
        self._files: OrderedDict[Shard, ShardFile] = OrderedDict()
        self._owner = os.getpid()
        self._expected = dict(expected or {})

    def read(self, entry: SampleEntry, only: Sequence[str] | None = None) -> dict[str, bytes]:
        """The members of a sample (those of `only`, where given).

        Raises:
            BadSampleError: bytes are missing or cannot be read.
            UserError: the shard is gone, or is another than it was.
        """
        members = {}
        file = self._open(entry.shard)
        self._check(entry.shard, file)
        wanted = {name: place for name, place in entry.members.items() if only is None or name in only}
        together = _together(wanted)
        for extension, (offset, size) in wanted.items():
            most = MAX_BYTES if extension in ("json", "txt") else MAX_MEMBER
            if size > most:
                raise BadSampleError(f"its .{extension} has {size} bytes; at most {most} are read")
            try:
                if together is not None:
                    file.expect(*together)
                    together = None
                header = b"" if entry.seen else file.pread(BLOCK, offset - BLOCK)
                data = file.pread(size, offset)
            except OSError as error:
                lost = error.errno in (errno.ESTALE, errno.ENODEV, errno.ENOTCONN)
                if lost or isinstance(error, FileNotFoundError):
                    raise _gone(entry.shard, error) from error
                raise BadSampleError(f"its .{extension} cannot be read ({error.strerror})") from error
            if len(data) != size:
                raise BadSampleError(f"the shard is truncated inside its .{extension}")
            if not entry.seen and not _is_header_of(header, entry.key, extension, size):
                if isinstance(file, RangeFile):
                    file.recheck()
                    self._check(entry.shard, file)
                raise UserError(
                    f"shard {shown(entry.shard)} does not hold {shown(entry.key)}.{shown(extension)} where its "
                    f"index says: delete {shown(index_path(entry.shard).name)}, which is of another shard"
                )
            members[extension] = data
        file.expect(0, 0)
        return members

    def _open(self, shard: Shard) -> ShardFile:
        if self._owner != os.getpid():  # a worker has its parent's descriptors, but opens its own
            self._files, self._owner = OrderedDict(), os.getpid()
        if shard not in self._files:
            try:
                self._files[shard] = open_shard(shard)
            except OSError as error:
                raise _gone(shard, error) from error
            if len(self._files) > MAX_OPEN:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]

    def _check(self, shard: Shard, file: ShardFile) -> None:
        expected = self._expected.get(shard)
        if expected is not None and file.facts() != expected:
            raise UserError(
                f"shard {shard} was changed or replaced after this run had read its index: "
                "put the old one back and continue with resume=last, or start a new run"
            )

    def close(self) -> None:
        for file in self._files.values() if self._owner == os.getpid() else ():
            file.close()
        self._files = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": OrderedDict(), "_owner": -1, "_expected": self._expected}

    def __del__(self) -> None:
        self.close()


def _together(members: Mapping[str, tuple[int, int]]) -> tuple[int, int] | None:
    """From where to where members and their headers reach; None where other things stand between them."""
    start = min((offset for offset, _ in members.values()), default=BLOCK) - BLOCK
    stop = max((offset + size for offset, size in members.values()), default=0)
    known = sum(
        size + 4 * BLOCK for _, size in members.values()
    )  # header, padding, and maybe an extended header
    return (start, stop) if start < stop <= start + min(known, MAX_MEMBER) else None


def _is_header_of(block: bytes, key: str, extension: str, size: int) -> bool:
    """Whether the tar's header before a member's bytes names that member and its size."""
    info = parse_header(block)
    if info is None or not info.isreg() or info.size != size:
        return False
    name = f"{key}.{extension}"
    # A name that does not fit into the header stands in another one before it.
    return split_name(info.name) == (key, extension) or len(name) > 99 or not name.isascii()


def _gone(shard: Shard, error: OSError) -> UserError:
    reason = error.strerror or "the store has no such object"
    return UserError(
        f"shard {shard} can no longer be read ({reason}): bring it back (is its disk mounted?) "
        "and continue with resume=last"
    )
