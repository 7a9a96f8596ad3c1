"""Shards to read at random, wherever they are: on a disk, on a store by ranges of bytes, or as a local copy.

A copy of the whole is made of what cannot be read in parts: pipes, servers that ignore ranges, shards without an index.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

from ovi_eval.common.files import file_sha256, write_whole, written_whole
from ovi_eval.common.plain_data import read_json
from ovi_eval.common.shown import shown
from ovi_lab.data.store_cache import StoreCache
from ovi_lab.data.stores import RemoteShard, facts_of, read_range, retried
from ovi_lab.errors import UserError

Shard = Path | RemoteShard
WHOLE = "whole.tar"
PIECE = 2**24  # bytes of one request while a whole shard is copied
CHECKED_EVERY_S = 600.0  # how long a store's shard counts as unchanged, unless its bytes say otherwise


_ASKED: dict[RemoteShard, tuple[tuple[int, int], float]] = {}  # the last answer of a store, and when it came


class ShardFile(Protocol):
    """An open shard."""

    size: int

    def pread(self, size: int, offset: int) -> bytes:
        """Bytes at an offset, fewer at the end of the shard."""

    def expect(self, start: int, stop: int) -> None:
        """Announces that these bytes are read next; none (0, 0): what is held of others is given up."""

    def facts(self) -> tuple[int, int]:
        """Size, and time of change or another number that changes with the content."""

    def close(self) -> None: ...


class LocalFile:
    """A shard on a disk, by its descriptor."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.descriptor).st_size

    def pread(self, size: int, offset: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def expect(self, start: int, stop: int) -> None:
        """Nothing to do: the system reads ahead."""

    def facts(self) -> tuple[int, int]:
        now = os.fstat(self.descriptor)
        return now.st_size, now.st_mtime_ns

    def close(self) -> None:
        os.close(self.descriptor)


class RangeFile:
    """A shard on a store, read by ranges of bytes that are kept in the cache."""

    def __init__(self, shard: RemoteShard) -> None:
        self.shard, self._cache = shard, StoreCache()
        known = _ASKED.get(shard)
        self._facts, self._checked = known or _asked(shard)
        self._facts = self.facts()
        self.size = self._facts[0]
        self._place = self._cache.place(shard, *self._facts)
        self._start, self._data = 0, b""
        copy = self._place / WHOLE
        self._whole = LocalFile(copy) if _size(copy) == self.size else None

    def pread(self, size: int, offset: int) -> bytes:
        stop = min(offset + size, self.size)
        if self._whole is not None:
            return self._whole.pread(size, offset)
        if not self._start <= offset <= stop <= self._start + len(self._data):
            self.expect(offset, stop)
        if self._whole is not None:
            return self._whole.pread(size, offset)
        return self._data[offset - self._start : stop - self._start]

    def expect(self, start: int, stop: int) -> None:
        stop = min(stop, self.size)
        self._start, self._data = 0, b""
        if start >= stop or self._whole is not None:
            return
        data = self._cache.get(self._place, start, stop)
        if data is None:
            data = read_range(self.shard, start, stop)
            if len(data) != stop - start:  # the server ignores ranges: once is enough
                self._whole = LocalFile(local_copy(self.shard))
                return
            self._cache.put(self._place, start, data)
        self._start, self._data = start, data

    def facts(self) -> tuple[int, int]:
        if time.monotonic() - self._checked > CHECKED_EVERY_S:
            self.recheck()
        return self._facts

    def recheck(self) -> None:
        """Asks the store again whether the shard is what it was."""
        self._facts, self._checked = _asked(self.shard)

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()


class PipeFile(LocalFile):
    """The local copy of what a command writes."""

    def __init__(self, shard: RemoteShard) -> None:
        self._known = shard_facts(shard)
        super().__init__(local_copy(shard))

    def facts(self) -> tuple[int, int]:
        return self._known


def open_shard(shard: Shard) -> ShardFile:
    """A shard to read at random. Raises OSError or UserError where it cannot be opened."""
    if isinstance(shard, Path):
        return LocalFile(shard)
    return PipeFile(shard) if shard.is_pipe else RangeFile(shard)


def shard_facts(shard: Shard) -> tuple[int, int]:
    """Size, and time of change (ns) or another number that changes with the content.

    Raises OSError where there is no such shard, UserError where its store cannot be asked.
    """
    if isinstance(shard, Path):
        now = shard.stat()
        return now.st_size, now.st_mtime_ns
    if not shard.is_pipe:
        return _asked(shard)[0]
    known = _known_pipe(shard)
    if known is None:
        local_copy(shard)
        known = _known_pipe(shard)
    return known or (0, 0)


def _asked(shard: RemoteShard) -> tuple[tuple[int, int], float]:
    """The facts of a shard by its store, and the time of asking."""
    _ASKED[shard] = facts_of(shard), time.monotonic()
    return _ASKED[shard]


def local_copy(shard: Shard) -> Path:
    """A shard as a file of this machine: itself, or its copy in the cache.

    Raises:
        UserError: it cannot be read whole, is larger than the cache, or was changed meanwhile.
    """
    if isinstance(shard, Path):
        return shard
    cache = StoreCache()
    if shard.is_pipe:
        return _copied_pipe(shard, cache)
    facts = facts_of(shard)
    place = cache.place(shard, *facts)
    copy = place / WHOLE
    with cache.locked(place / ".lock"):
        if _size(copy) != facts[0]:
            _make_room(cache, shard, facts[0])
            with written_whole(copy) as temporary, temporary.open("wb") as file:
                while (done := file.tell()) < facts[0]:
                    data = read_range(shard, done, min(done + PIECE, facts[0]))
                    whole = len(data) == facts[0] and done + len(data) != facts[0]
                    file.seek(0 if whole else done)
                    file.write(data)
            if facts_of(shard) != facts or _size(copy) != facts[0]:
                copy.unlink(missing_ok=True)
                raise UserError(f"{shown(shard)} was changed while it was copied: start again when it rests")
    return copy


def _copied_pipe(shard: RemoteShard, cache: StoreCache) -> Path:
    """The copy of what a command writes; the same content as before, where it had been copied before."""
    from webdataset.gopen import gopen

    place = cache.place(shard, 0, 0)
    copy, digest_file = place / WHOLE, place / "facts.json"

    def once() -> None:
        temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file, closing(gopen(shard.url)) as pipe:
                while data := pipe.read(2**20):
                    file.write(data)
            temporary.replace(copy)
        finally:
            temporary.unlink(missing_ok=True)

    with cache.locked(place / ".lock"):
        known = _known_pipe(shard)
        if known is None or _size(copy) != known[0]:
            retried(shard, once)
            size, digest = copy.stat().st_size, file_sha256(copy)
            facts = {"size": size, "sha256": digest}
            if known is not None and known != (size, _number(digest)):
                copy.unlink()
                raise UserError(
                    f"{shown(shard)} writes another shard than before: delete {place} to take the new one"
                )
            try:
                _make_room(cache, shard, size)
            except UserError:
                copy.unlink()
                raise
            write_whole(digest_file, json.dumps(facts))
    return copy


def _known_pipe(shard: RemoteShard) -> tuple[int, int] | None:
    """Size and digest of what a command had written; None where it has not been run."""
    with suppress(UserError, KeyError, TypeError, ValueError):
        found: Any = read_json(StoreCache().place(shard, 0, 0) / "facts.json")
        return int(found["size"]), _number(str(found["sha256"]))
    return None


def _number(digest: str) -> int:
    return int(digest[:12], 16)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _make_room(cache: StoreCache, shard: RemoteShard, size: int) -> None:
    if size > cache.limit:
        raise UserError(
            f"{shown(shard)} has {size / 1e9:.1f} GB and is needed whole, more than the cache's {cache.limit / 1e9:g}: "
            "raise OVI_DATA_CACHE_GB"
        )
    cache.reserve(size)
