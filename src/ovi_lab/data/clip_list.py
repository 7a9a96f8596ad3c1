"""The clips of many shards as columns: where each one's bytes are, its shapes, and which cannot be used.

The columns are made once from the shards' indexes and kept in a file, which all processes of a machine map and share.
It lies in `.ovi_lab` beside the first shard, or in the user's cache where that folder cannot be written, and counts
only while the shards' names, sizes and times, those of their indexes and the reading options are those it was made
with. Small lists are made anew in memory.
"""

from __future__ import annotations

import gc
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from filelock import FileLock

from ovi_eval.common.files import written_whole
from ovi_eval.common.shown import shown
from ovi_lab.checkpoints.digests import default_cache
from ovi_lab.data.buckets import AudioTokens
from ovi_lab.data.columns import Array, Columns, ColumnWriter, DamagedColumnsError, need
from ovi_lab.data.decode import kind_of, missing_part
from ovi_lab.data.index import (
    BadSample,
    BadSampleError,
    SampleEntry,
    Shapes,
    ShardIndex,
    digest_of,
    index_path,
    read_index,
    unsafe_name,
)
from ovi_lab.data.made_of import MadeOf, is_whole
from ovi_lab.data.shapes import ClipShapes, Forms, chunks
from ovi_lab.data.tar_headers import BLOCK
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

FORMAT = "ovi_lab.clips/1"
KEPT_FROM = 16 * 2**20
"""Bytes of indexes (of shards, where there is none) from which on the list is kept in a file."""
_KINDS = {
    "key_ends": "<u8",  # one a clip: where its key ends in `keys`
    "keys": "|u1",
    "layouts": "<u4",  # one a clip: its members' names, among the different ones
    "first_places": "<u8",  # one a clip: its first member in `places`
    "places": "<u8",  # offset and size of each member, in bytes
    "forms": "<u4",
    "lengths": "<u4",
    "bad_ends": "<u8",  # one a bad sample: where its text ends in `bad`
    "bad": "|u1",
}


@dataclass(frozen=True)
class Reading:
    """What is taken of shards; see `ClipDataset`."""

    modalities: tuple[str, ...]
    stored_text: bool | None
    audio_tokens: AudioTokens | None

    def parts(self, text: bool) -> tuple[str, ...]:
        """The latents that a sample must have."""
        return (*self.modalities, *(("text",) if text else ()))


@dataclass(frozen=True)
class ShardFacts:
    """A shard when the list was made: size and time of change (ns), of its index as well where it has one."""

    name: str
    size: int
    changed: int
    index_size: int = -1
    index_changed: int = -1

    @classmethod
    def of(cls, shard: Path) -> ShardFacts:
        """As they are now. Raises UserError where the shard is gone."""
        try:
            now = shard.stat()
        except OSError as error:
            raise UserError(
                f"shard {shown(shard)} cannot be read ({error.strerror}): bring it back"
            ) from error
        with suppress(OSError):
            beside = index_path(shard).stat()
            return cls(str(shard), now.st_size, now.st_mtime_ns, beside.st_size, beside.st_mtime_ns)
        return cls(str(shard), now.st_size, now.st_mtime_ns)


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
        self, paths: Sequence[Path], columns: Columns, facts: Sequence[ShardFacts], reading: Reading
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
                f"{self._columns.source} is damaged at clip {number}: delete it, and it will be made again"
            ) from error
        members = dict(zip(names, zip(places[::2], places[1::2], strict=True), strict=True))
        return SampleEntry(self.paths[shard], key, members, self.shapes[number], self._seen[shard])

    def __iter__(self) -> Iterator[SampleEntry]:
        return (self[number] for number in range(len(self)))

    def __reduce__(self) -> tuple[type[ClipList], tuple[list[Path], Columns, list[ShardFacts], Reading]]:
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


def made_from(facts: Sequence[ShardFacts], reading: Reading) -> str:
    """A digest of all that decides a list."""
    return digest_of([[asdict(fact) for fact in facts], asdict(reading)])


def clips_of(paths: Sequence[Path], reading: Reading) -> ClipList:
    """The clips of shards, from the file that is kept of them or else from their indexes.

    Raises:
        UserError: a shard is gone or no tar, or their latents are of different encoders.
    """
    facts = [ShardFacts.of(path) for path in paths]
    if sum(fact.size if fact.index_size < 0 else fact.index_size for fact in facts) < KEPT_FROM:
        memory = io.BytesIO()
        _Collector(reading, None).write(paths, facts, memory)
        return ClipList(paths, Columns(memory.getvalue()), facts, reading)
    name = f"clips-{digest_of([[fact.name for fact in facts], asdict(reading)])[:16]}.columns"
    folders = (paths[0].absolute().parent / ".ovi_lab", default_cache())
    for folder in folders:
        if (kept := _kept(folder / name, paths, facts, reading)) is not None:
            return kept
    for folder in folders:
        if (lock := _locked(folder, name)) is None:
            continue
        with lock:
            if (kept := _kept(folder / name, paths, facts, reading)) is None:
                log.info("the contents of %d shards are read once, into %s", len(paths), folder / name)
                collector = _Collector(reading, folder)
                with written_whole(folder / name) as temporary, temporary.open("wb") as file:
                    collector.write(paths, facts, file)
                kept = ClipList(paths, Columns(folder / name), facts, reading)
            return kept
    raise UserError(
        f"neither {folders[0]} nor {folders[1]} can be written, where the list of clips is kept: "
        "make one of them writable (XDG_CACHE_HOME names another place for the second)"
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
    file: Path, paths: Sequence[Path], facts: Sequence[ShardFacts], reading: Reading
) -> ClipList | None:
    """The list in a file; None where there is none, or it is damaged or of other shards."""
    try:
        return ClipList(paths, Columns(file), facts, reading)
    except (OSError, DamagedColumnsError):
        return None


@contextmanager
def _without_collector() -> Iterator[None]:
    """Without Python's search for circles, which walks through all of these plain values over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Collector:
    """Makes the columns, one shard at a time.

    Args:
        reading: what is taken.
        folder: for the columns while they grow; None: memory.
    """

    def __init__(self, reading: Reading, folder: Path | None) -> None:
        self.reading = reading
        self.columns = ColumnWriter(_KINDS, folder)
        self.made_of, self.forms = MadeOf(), Forms()
        self.kinds: set[str] = set()
        self.stored_text = reading.stored_text
        self.left_out = self.places = self.key_end = self.bad_end = 0
        self.layouts: dict[tuple[str, ...], int] = {}
        self._kind_of: dict[tuple[str, ...], str | BadSampleError] = {}
        self._form_of: dict[Any, tuple[int, int] | BadSampleError | None] = {}

    def write(self, paths: Sequence[Path], facts: Sequence[ShardFacts], file: IO[bytes]) -> None:
        """Reads the shards and writes the columns."""
        counts, seen = [], []
        try:
            with _without_collector():
                for path in paths:
                    index = read_index(path)
                    counts.append(self._add(index))
                    seen.append(all(entry.seen for entry in index.entries))
            about = {
                "format": FORMAT,
                "made_from": made_from(facts, self.reading),
                "counts": counts,
                "seen": seen,
                "kinds": sorted(self.kinds),
                "left_out": self.left_out,
                "stored_text": self.stored_text,
                "made_of": self.made_of.as_json(),
                "layouts": list(self.layouts),
                "forms": self.forms.list,
            }
            self.columns.write(about, file)
        finally:
            self.columns.close()

    def _add(self, index: ShardIndex) -> int:
        """The number of usable samples of a shard, which are added; what is wrong with the others is added too."""
        wanted = self.reading.stored_text is not False
        self.made_of.add(index, self.reading.parts(wanted))
        if self.stored_text is None:
            self.stored_text = _has_text(index)
            self._form_of = {}
        text = bool(self.stored_text)
        bad = list(index.bad)
        keys, ends, layouts, firsts, places, forms, lengths = [], [], [], [], [], [], []
        for entry in index.entries:
            names = tuple(entry.members)
            kind = self._kind(names)
            form: tuple[int, int] | BadSampleError | None = (
                kind if isinstance(kind, BadSampleError) else self._form(kind, entry.shapes, text)
            )
            if form is None:
                self.left_out += 1
                continue
            if isinstance(form, BadSampleError):
                bad.append(BadSample(index.path.name, entry.key, str(form)))
                continue
            self.kinds.add(str(kind))
            key = entry.key.encode()
            keys.append(key)
            self.key_end += len(key)
            ends.append(self.key_end)
            layouts.append(self.layouts.setdefault(names, len(self.layouts)))
            firsts.append(self.places)
            self.places += len(names)
            for place in entry.members.values():
                places += place
            forms.append(form[0])
            lengths.append(form[1])
        texts = [json.dumps([one.shard, one.key, one.reason]).encode() for one in bad]
        for name, values in (
            ("keys", b"".join(keys)),
            ("key_ends", ends),
            ("layouts", layouts),
            ("first_places", firsts),
            ("places", places),
            ("forms", forms),
            ("lengths", lengths),
            ("bad", b"".join(texts)),
            ("bad_ends", self.bad_end + np.cumsum([len(one) for one in texts], dtype=np.int64)),
        ):
            self.columns.add(name, values)
        self.bad_end += sum(map(len, texts))
        return len(keys)

    def _kind(self, names: tuple[str, ...]) -> str | BadSampleError:
        """The kind of samples with these members, or what is wrong with them."""
        if names not in self._kind_of:
            try:
                self._kind_of[names] = kind_of(names, self.reading.modalities)
            except BadSampleError as error:
                self._kind_of[names] = error
        return self._kind_of[names]

    def _form(self, kind: str, shapes: Shapes | None, text: bool) -> tuple[int, int] | BadSampleError | None:
        """The form of a sample's latents and the length of its sound; None where the sample is left out."""
        if kind != "latents" or shapes is None:
            return self.forms.add(None)
        key = (text, *shapes.items())
        if key not in self._form_of:
            self._form_of[key] = self._new_form(shapes, text)
        return self._form_of[key]

    def _new_form(self, shapes: Shapes, text: bool) -> tuple[int, int] | BadSampleError | None:
        modalities, tokens = self.reading.modalities, self.reading.audio_tokens
        for part in self.reading.parts(text):
            if part not in shapes:
                return BadSampleError(missing_part(part, shapes))
        if tokens is not None and not tokens.takes(shapes, modalities):
            return None
        wanted = {part: shapes[part] for part in modalities}
        # Where one is invalid, reading the sample reports it.
        return self.forms.add(
            wanted if all(is_whole(part, shape) for part, shape in wanted.items()) else None
        )


def _has_text(index: ShardIndex) -> bool | None:
    """Whether the first latents of a shard bring text embeddings; None where it holds no latents."""
    return next(("text" in entry.shapes for entry in index.entries if entry.shapes is not None), None)
