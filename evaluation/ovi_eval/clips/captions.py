"""Captions and other texts of clips by id: from a CSV, TSV or JSONL file, or a text file beside each clip."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from ovi_eval.common.shown import shown
from ovi_eval.common.tables import read_table
from ovi_eval.common.unicode_text import read_caption_text
from ovi_eval.errors import UserError

IN_FOLDER = ("captions.jsonl", "captions.csv", "captions.tsv")
ID_COLUMNS = ("file", "filename", "file_name", "id", "name", "path", "video", "audio")
"""Columns that name a clip; those that can only be a file's name come first."""
CAPTION_COLUMNS = ("caption", "prompt", "text_prompt", "text", "description")
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")


@dataclass
class FolderCaptions:
    """Texts of a folder's clips by id, and notes on what could not be used."""

    texts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, texts: Mapping[str, str], source: str) -> None:
        """Adds texts that replace earlier ones; where they differ, that is noted."""
        other = sorted(id for id, text in texts.items() if self.texts.get(id, text) != text)
        if other:
            clips = "1 clip" if len(other) == 1 else f"{len(other)} clips"
            self.notes.append(f"{shown(source)} gives {clips} another caption, which is used: {few(other)}")
        self.texts |= texts


def read_captions(folder: Path, texts: Iterable[Path]) -> FolderCaptions:
    """Captions of a folder: `texts`, its .txt files, then captions.jsonl, .csv and .tsv. A later source wins.

    A text that cannot be read is noted, and its clip has no caption from it. Raises UserError for a table that cannot
    be read.
    """
    found = FolderCaptions()
    for file in texts:
        try:
            found.add({clip_id(file.relative_to(folder)): read_caption_text(file)}, file.name)
        except UserError as error:
            found.notes.append(f"caption left out: {error}")
    for name in IN_FOLDER:
        if (folder / name).is_file():
            found.add(read_caption_file(folder / name), name)
    return found


def read_caption_file(path: str | Path) -> dict[str, str]:
    """Captions by id of one CSV, TSV or JSONL file, as `read_texts`."""
    return read_texts(path, CAPTION_COLUMNS, "captions")


def read_texts(
    path: str | Path,
    columns: Sequence[str],
    what: str,
    id_of: Callable[[str], str] | None = None,
    written: dict[str, str] | None = None,
) -> dict[str, str]:
    """Texts by clip id of one CSV, TSV or JSONL file.

    A row's id is in the first of ID_COLUMNS that it has (a media suffix is left out), its text in the first of
    `columns`; `what` is their name in messages. `id_of` makes the id of a name (None: `plain_id`), and `written`
    takes the names as they are in the file, by id. Raises UserError naming the file and line where these are
    missing, are no text, or an id comes twice with other words.
    """
    path = Path(path)
    found: dict[str, str] = {}
    for row in read_table(path, (ID_COLUMNS, columns), what):
        if row.empty:
            continue
        if row.fault:
            raise UserError(f"{shown(path)}: {row.fault}")
        try:
            name, text = row.name(ID_COLUMNS), row.text(columns)
            if not name or text is None:
                raise UserError(f"it must have {ID_COLUMNS[0]} (or id) and {columns[0]}")
            id = (id_of or plain_id)(name)
            if found.setdefault(id, text) != text:
                raise UserError(f"it gives {shown(id)} a second text that differs; keep one")
            if written is not None:
                written[id] = name
        except UserError as error:
            raise UserError(f"{shown(path)}: line {row.line}: {error}") from None
    return found


def clip_id(path: PurePath) -> str:
    """The id of a clip: its relative path without the suffix, with forward slashes, in Unicode's form NFC."""
    return nfc(path.with_suffix("").as_posix())


def plain_id(name: str) -> str:
    """The id of a clip's file name: without a media suffix and ./, with forward slashes, in Unicode's form NFC."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    plain = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    return nfc(plain.as_posix())


def nfc(name: str) -> str:
    """The name in Unicode's form NFC: macOS writes names decomposed, and most tables have them composed."""
    return unicodedata.normalize("NFC", name)


def few(names: Iterable[str]) -> str:
    """The first three of the names in their order, and how many more there are; safe to show."""
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(shown(name, 80) for name in listed[:3]) + more
