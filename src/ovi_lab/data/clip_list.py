"""The clips of many shards as columns: where each one's bytes are, its shapes, and which cannot be used.

The columns are made once from the shards' indexes and kept in a file, which all processes of a machine map and share.
It lies in `.ovi_lab` beside the first shard, or in the user's cache where that folder cannot be written, and counts
only while the shards' names, sizes and times, those of their indexes and the reading options are those it was made
with. Small lists are made anew in memory.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import overload

import numpy as np
from filelock import FileLock

from ovi_eval.common.files import written_whole
from ovi_lab.checkpoints.digests import default_cache
from ovi_lab.data.clip_columns import FORMAT, Collector, Reading, ShardFacts, made_from
from ovi_lab.data.columns import Array, Columns, DamagedColumnsError, need
from ovi_lab.data.index import (
    BadSample,
    SampleEntry,
    Shapes,
    digest_of,
    unsafe_name,
)
from ovi_lab.data.made_of import MadeOf
from ovi_lab.data.shapes import ClipShapes, chunks
from ovi_lab.data.shard_files import Shard
from ovi_lab.data.stores import RemoteShard, of_each
from ovi_lab.data.tar_headers import BLOCK
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

KEPT_FROM = 16 * 2**20
"""Bytes of indexes (of shards, where there is none) from which on the list is kept in a file."""


class ClipList(Sequence[SampleEntry]):
    """The usable clips of shards by number. An entry is made when it is asked for.

    Args:
        paths: the shards.
        columns: what `clips_of` made of them.
        facts, reading: what the columns must have been made of.

    Raises:
        DamagedColumnsError: the columns are not those of these shards.
    """

    def __init__(
        self, paths: Sequence[Shard], columns: Columns, facts: Sequence[ShardFacts], reading: Reading
    ) -> None:
        self.paths, self.facts, self.reading, self._columns = list(paths), list(facts), reading, columns
        about = columns.about
        need(isinstance(about, dict) and about.get("format") == FORMAT)
        need(about.get("made_from") == made_from(facts, reading))
        try:
            self.counts: list[int] = [int(count) for count in about["counts"]]
            self.kinds, self.left_out = {str(kind) for kind in about["kinds"]}, int(about["left_out"])
            self.stored_text: bool | None = about["stored_text"]
            self.made_of = MadeOf.from_json(about["made_of"])
            self._seen = [bool(seen) for seen in about["seen"]]
            self._layouts = [tuple(str(name) for name in names) for names in about["layouts"]]
            forms = [None if form is None else _shapes(form) for form in about["forms"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedColumnsError from error
        need(len(self.counts) == len(self._seen) == len(self.paths) and min(self.counts, default=0) >= 0)
        self._starts = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        count = int(self._starts[-1])
        self._first, self._key_ends = (
            columns.array(name, "<u8", count) for name in ("first_places", "key_ends")
        )
        self._layout_N, form_N, length_N = (
            columns.array(name, "<u4", count) for name in ("layouts", "forms", "lengths")
        )
        self._keys, self._places = columns.array("keys", "|u1"), columns.array("places", "<u8")
        for part in chunks(count):
            need(
                int(form_N[part].max()) < len(forms) and int(self._layout_N[part].max()) < len(self._layouts)
            )
        self.shapes = ClipShapes(forms, form_N, length_N)
        self.bad = BadSamples(columns)

    @property
    def kept(self) -> Path | None:
        """The file of the columns; None where they are in memory alone."""
        return self._columns.source if isinstance(self._columns.source, Path) else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, number: int) -> SampleEntry: ...
    @overload
    def __getitem__(self, number: slice) -> list[SampleEntry]: ...
    def __getitem__(self, number: int | slice) -> SampleEntry | list[SampleEntry]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"clip {number} of {len(self)}")
        number %= len(self)
        shard = int(np.searchsorted(self._starts, number, "right")) - 1
        try:
            key = _text(self._keys, self._key_ends, number)
            names, first = self._layouts[int(self._layout_N[number])], int(self._first[number])
            places = self._places[2 * first : 2 * (first + len(names))].tolist()
            need(not unsafe_name(key) and len(places) == 2 * len(names))
            for offset, size in zip(places[::2], places[1::2], strict=True):
                need(offset >= BLOCK and offset % BLOCK == 0 and offset + size <= self.facts[shard].size)
        except DamagedColumnsError as error:
            raise UserError(
                f"{self.kept} is damaged at clip {number}: delete it, and it will be made again"
            ) from error
        members = dict(zip(names, zip(places[::2], places[1::2], strict=True), strict=True))
        return SampleEntry(self.paths[shard], key, members, self.shapes[number], self._seen[shard])

    def __iter__(self) -> Iterator[SampleEntry]:
        return (self[number] for number in range(len(self)))

    def __reduce__(self) -> tuple[type[ClipList], tuple[list[Shard], Columns, list[ShardFacts], Reading]]:
        return (ClipList, (self.paths, self._columns, self.facts, self.reading))


class BadSamples(Sequence[BadSample]):
    """The samples that cannot be used, as the indexes tell; each is made when it is asked for."""

    def __init__(self, columns: Columns) -> None:
        self._ends, self._texts = columns.array("bad_ends", "<u8"), columns.array("bad", "|u1")

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, number: int) -> BadSample: ...
    @overload
    def __getitem__(self, number: slice) -> list[BadSample]: ...
    def __getitem__(self, number: int | slice) -> BadSample | list[BadSample]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"bad sample {number} of {len(self)}")
        try:
            shard, key, reason = json.loads(_text(self._texts, self._ends, number % len(self)))
            return BadSample(str(shard), str(key), str(reason))
        except (DamagedColumnsError, ValueError, TypeError) as error:
            raise UserError(
                f"the list of clips is damaged at bad sample {number}: delete its file, and it will be made again"
            ) from error


def _text(texts: Array, ends: Array, number: int) -> str:
    """The text of that number. Raises DamagedColumnsError."""
    start, end = int(ends[number - 1]) if number else 0, int(ends[number])
    need(start <= end <= len(texts))
    try:
        return texts[start:end].tobytes().decode()
    except UnicodeDecodeError as error:
        raise DamagedColumnsError from error


def _shapes(form: Mapping[str, Sequence[int]]) -> Shapes:
    return {str(part): tuple(int(length) for length in shape) for part, shape in form.items()}


def clips_of(paths: Sequence[Shard], reading: Reading) -> ClipList:
    """The clips of shards, from the file that is kept of them or else from their indexes.

    Raises:
        UserError: a shard is gone or no tar, or their latents are of different encoders.
    """
    remote = of_each([path for path in paths if isinstance(path, RemoteShard)], ShardFacts.of)
    facts = [next(remote) if isinstance(path, RemoteShard) else ShardFacts.of(path) for path in paths]
    if sum(fact.size if fact.index_size < 0 else fact.index_size for fact in facts) < KEPT_FROM:
        memory = io.BytesIO()
        Collector(reading, None).write(paths, facts, memory)
        return ClipList(paths, Columns(memory.getvalue()), facts, reading)
    name = f"clips-{digest_of([[fact.name for fact in facts], asdict(reading)])[:16]}.columns"
    beside = [paths[0].absolute().parent / ".ovi_lab"] if isinstance(paths[0], Path) else []
    folders = [*beside, default_cache()]
    for folder in folders:
        if (kept := _kept(folder / name, paths, facts, reading)) is not None:
            return kept
    for folder in folders:
        if (lock := _locked(folder, name)) is None:
            continue
        with lock:
            if (kept := _kept(folder / name, paths, facts, reading)) is None:
                log.info("the contents of %d shards are read once, into %s", len(paths), folder / name)
                collector = Collector(reading, folder)
                with written_whole(folder / name) as temporary, temporary.open("wb") as file:
                    collector.write(paths, facts, file)
                kept = ClipList(paths, Columns(folder / name), facts, reading)
            return kept
    raise UserError(
        f"the list of clips is kept in {' or '.join(map(str, folders))}, and neither can be written: "
        "make one of them writable (XDG_CACHE_HOME names another place for the user's cache)"
    )


def _locked(folder: Path, name: str) -> FileLock | None:
    """The lock under which a list is made; None where the folder can hold none."""
    lock = FileLock(folder / f".{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock:
            return lock
    except (OSError, NotImplementedError):  # a folder that cannot be written, a file system without locks
        return None


def _kept(
    file: Path, paths: Sequence[Shard], facts: Sequence[ShardFacts], reading: Reading
) -> ClipList | None:
    """The list in a file; None where there is none, or it is damaged or of other shards."""
    try:
        return ClipList(paths, Columns(file), facts, reading)
    except (OSError, DamagedColumnsError):
        return None
