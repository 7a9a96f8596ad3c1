"""Making the columns of a list of clips from the indexes of its shards."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ovi_eval.common.collector import no_collector
from ovi_eval.common.shown import shown
from ovi_lab.data.buckets import AudioTokens
from ovi_lab.data.columns import ColumnWriter
from ovi_lab.data.index import (
    BadSample,
    BadSampleError,
    Shapes,
    ShardIndex,
    digest_of,
    index_path,
    read_index,
)
from ovi_lab.data.kinds import Require, kind_of, missing_part, modalities_of
from ovi_lab.data.made_of import MadeOf, is_whole
from ovi_lab.data.shapes import Forms
from ovi_lab.data.shard_files import Shard, shard_facts
from ovi_lab.data.stores import RemoteShard
from ovi_lab.errors import UserError

FORMAT = "ovi_lab.clips/2"
_UNKNOWN = {"video": (0, 0, 0, 0), "audio": (0, 0)}
KINDS = {
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
    require: Require = "all"

    def parts(self, text: bool) -> tuple[str, ...]:
        """The latents that are read."""
        return (*self.modalities, *(("text",) if text else ()))

    def missing(self, there: Collection[str], text: bool) -> str | None:
        """The first part that latents must have and lack; None where they are whole."""
        lacking = [m for m in self.modalities if m not in there]
        if lacking and (self.require == "all" or len(lacking) == len(self.modalities)):
            return lacking[0]
        return "text" if text and "text" not in there else None


@dataclass(frozen=True)
class ShardFacts:
    """A shard when the list was made: size and time of change (ns), of its index as well where it has one."""

    name: str
    size: int
    changed: int
    index_size: int = -1
    index_changed: int = -1

    @classmethod
    def of(cls, shard: Shard) -> ShardFacts:
        """As they are now. Raises UserError where the shard is gone."""
        try:
            now = shard_facts(shard)
        except OSError as error:
            reason = error.strerror or "there is no such object"
            raise UserError(f"shard {shown(shard)} cannot be read ({reason}): check its name") from error
        beside: tuple[int, int] | None = None
        if not isinstance(shard, RemoteShard):
            with suppress(OSError):
                beside = shard_facts(index_path(shard))
        elif not shard.is_pipe:
            with suppress(OSError, UserError):  # a store may refuse what is not there
                beside = shard_facts(index_path(shard))
        return cls(str(shard), *now, *(beside or ()))


def made_from(facts: Sequence[ShardFacts], reading: Reading) -> str:
    """A digest of all that decides a list."""
    return digest_of([[asdict(fact) for fact in facts], asdict(reading)])


class Collector:
    """Makes the columns, one shard at a time.

    Args:
        reading: what is taken.
        folder: for the columns while they grow; None: memory.
    """

    def __init__(self, reading: Reading, folder: Path | None) -> None:
        self.reading = reading
        self.columns = ColumnWriter(KINDS, folder)
        self.made_of, self.forms = MadeOf(), Forms()
        self.kinds: set[str] = set()
        self.stored_text = reading.stored_text
        self.left_out = self.places = self.key_end = self.bad_end = 0
        self.layouts: dict[tuple[str, ...], int] = {}
        self._kind_of: dict[tuple[str, ...], str | BadSampleError] = {}
        self._form_of: dict[Any, tuple[int, int] | BadSampleError | None] = {}

    def write(self, paths: Sequence[Shard], facts: Sequence[ShardFacts], file: IO[bytes]) -> None:
        """Reads the shards and writes the columns."""
        counts, seen = [], []
        try:
            with no_collector():
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
        keys: list[bytes] = []
        numbers: tuple[list[int], ...] = ([], [], [], [], [])
        ends, layouts, firsts, forms, lengths = numbers
        places: list[int] = []
        for entry in index.entries:
            names = tuple(entry.members)
            kind = self._kind(names)
            form: tuple[int, int] | BadSampleError | None = (
                kind if isinstance(kind, BadSampleError) else self._form(kind, names, entry.shapes, text)
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
                self._kind_of[names] = kind_of(names, self.reading.modalities, self.reading.require)
            except BadSampleError as error:
                self._kind_of[names] = error
        return self._kind_of[names]

    def _form(
        self, kind: str, names: tuple[str, ...], shapes: Shapes | None, text: bool
    ) -> tuple[int, int] | BadSampleError | None:
        """The form of a sample's latents and the length of its sound; None where the sample is left out."""
        if kind == "media" and self.reading.require == "any":
            # their sizes are not known, but which modalities they have
            return self.forms.add({m: _UNKNOWN[m] for m in modalities_of(names, self.reading.modalities)})
        if kind != "latents" or shapes is None:
            return self.forms.add(None)
        key = (text, *shapes.items())
        if key not in self._form_of:
            self._form_of[key] = self._new_form(shapes, text)
        return self._form_of[key]

    def _new_form(self, shapes: Shapes, text: bool) -> tuple[int, int] | BadSampleError | None:
        tokens = self.reading.audio_tokens
        if (missing := self.reading.missing(shapes, text)) is not None:
            return BadSampleError(missing_part(missing, shapes))
        modalities = [m for m in self.reading.modalities if m in shapes]
        if tokens is not None and not tokens.takes(shapes, self.reading.modalities):
            return None
        wanted = {part: shapes[part] for part in modalities}
        # Where one is invalid, reading the sample reports it.
        return self.forms.add(
            wanted if all(is_whole(part, shape) for part, shape in wanted.items()) else None
        )


def _has_text(index: ShardIndex) -> bool | None:
    """Whether the first latents of a shard bring text embeddings; None where it holds no latents."""
    return next(("text" in entry.shapes for entry in index.entries if entry.shapes is not None), None)
