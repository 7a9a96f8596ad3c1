"""Captions of clips: those of their files, and in their place those that were written for the clips themselves.

A caption of a clip (`ovi-data captions`) is kept in the work folder with the digest of the clip's media and of the
file's caption that it replaces. It holds as long as both are what they were: a clip that was cut anew needs another,
and a text that is put beside the file later is newer than it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ovi_eval.common.plain_data import parse_json
from ovi_eval.common.unicode_text import unusable
from ovi_lab.data.build.given import GivenScores
from ovi_lab.data.build.items import SourceFile
from ovi_lab.data.captions import Captions
from ovi_lab.data.index import BadSampleError, no_space
from ovi_lab.errors import UserError

BOOK = "captions.jsonl"
FILE = "file"
"""The origin of a caption in a text file beside the video, or in a table of files."""


@dataclass(frozen=True)
class ClipCaption:
    """A caption of one clip.

    `sha256`: of the clip's media; `by`: who wrote it; `instead_of`: digest of the file's caption it replaces.
    """

    key: str
    sha256: str
    caption: str
    by: str
    instead_of: str = ""


@dataclass(frozen=True)
class CaptionFound:
    """A clip's caption, "" for none; `by`: who wrote it, or `FILE`; `of_file`: the file's caption."""

    text: str = ""
    by: str | None = None
    of_file: str = ""

    def plain(self) -> dict[str, Any]:
        """Its part of a line of `clips.jsonl`."""
        other = {"caption_of_file": self.of_file} if self.of_file != self.text and self.of_file else {}
        return {"caption": self.text, "caption_by": self.by, **other}

    @classmethod
    def from_plain(cls, row: Mapping[str, Any]) -> CaptionFound:
        """From a line of `clips.jsonl`."""
        text, by = str(row.get("caption") or ""), row.get("caption_by")
        of_file = row.get("caption_of_file", text if by == FILE else "")
        return cls(text, None if by is None else str(by), str(of_file))


class CaptionsOfClips(Protocol):
    """Captions of clips."""

    def of(self, source: SourceFile, clip: Mapping[str, Any]) -> CaptionFound:
        """The caption of a clip of an item."""


def text_digest(text: str) -> str:
    """Digest of a file's caption; "" of none."""
    return hashlib.sha256(text.encode()).hexdigest()[:20] if text else ""


class CaptionBook:
    """The captions written for clips, in a file of the work folder that is only added to: the last of a clip holds."""

    def __init__(self, work: Path) -> None:
        self.path = work / BOOK
        self._last: dict[str, ClipCaption] = {}
        if self.path.is_file():
            with self.path.open("rb") as lines:
                for line in lines:
                    if (entry := _parsed(line)) is not None:
                        self._last[entry.key] = entry

    def of(self, key: str, sha256: str | None, of_file: str) -> ClipCaption | None:
        """The caption of the clip of these media, whose file has that caption."""
        entry = self._last.get(key)
        if entry is None or entry.sha256 != sha256 or entry.instead_of != text_digest(of_file):
            return None
        return entry

    def add(self, entries: Iterable[ClipCaption]) -> None:
        """Adds captions; a line that a kill has cut off is closed first."""
        with no_space(self.path), self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            for entry in entries:
                self._last[entry.key] = entry
                file.write(json.dumps(asdict(entry), ensure_ascii=False).encode() + b"\n")


def _parsed(line: bytes) -> ClipCaption | None:
    """A line of the book; None for one that was cut off."""
    try:
        entry = ClipCaption(**parse_json(line, BOOK))
    except (UserError, TypeError):
        return None
    if not all(isinstance(value, str) for value in asdict(entry).values()) or unusable(entry.caption):
        return None
    return entry


@dataclass(frozen=True)
class FileCaptions:
    """Captions of a build: those of the book, else those of the files."""

    captions: Captions
    given: GivenScores
    book: CaptionBook

    def of(self, source: SourceFile, clip: Mapping[str, Any]) -> CaptionFound:
        """The caption of a clip."""
        try:
            own = self.captions.of(self.captions.folder / source.name) or ""
        except BadSampleError:
            own = ""
        return with_book(own or self.given.caption(Path(source.name)), clip, self.book)


@dataclass(frozen=True)
class KnownCaptions:
    """Captions of a build that is there: those of the book, else what `clips.jsonl` says of the files'."""

    of_files: Mapping[str, str]
    """By key."""
    book: CaptionBook

    def of(self, source: SourceFile, clip: Mapping[str, Any]) -> CaptionFound:
        """The caption of a clip."""
        return with_book(self.of_files.get(clip["key"], ""), clip, self.book)


def with_book(of_file: str, clip: Mapping[str, Any], book: CaptionBook) -> CaptionFound:
    """The book's caption of a clip, else its file's."""
    entry = book.of(clip["key"], clip["sha256"], of_file)
    if entry is None:
        return CaptionFound(of_file, FILE if of_file else None, of_file)
    return CaptionFound(entry.caption, entry.by, of_file)
