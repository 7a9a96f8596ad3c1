"""Captions of a table joined to the clips of a build."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ovi_eval.clips.captions import CAPTION_COLUMNS, ID_COLUMNS, plain_id
from ovi_eval.common.shown import shown
from ovi_eval.common.tables import TableRow, read_table
from ovi_eval.common.unicode_text import unusable
from ovi_lab.data.build.assemble import ClipRow
from ovi_lab.data.build.captioning.assembled import Assembly
from ovi_lab.data.build.clip_captions import ClipCaption, text_digest
from ovi_lab.data.index import no_space
from ovi_lab.data.stores import RemoteShard, fetch, is_remote
from ovi_lab.errors import UserError
from ovi_lab.text.caption_form import has_sound_description, with_tag
from ovi_lab.text.prompts import check_tags

JOINED = "joined"
"""Who wrote a caption of a table that does not say."""


@dataclass
class Joined:
    """What became of a table's rows; `refused`: rows whose caption cannot be used, with the reason."""

    used: int = 0
    empty: int = 0
    without_sound: int = 0
    not_kept: int = 0
    """Rows of clips that bounds, or another clip like them, keep out."""
    refused: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def local_table(name: str) -> Iterator[Path]:
    """A table of this machine, or a copy of one at an address until the block ends. Raises UserError for none there."""
    if not is_remote(name):
        yield Path(name)
        return
    table = RemoteShard(name)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / table.name
        try:
            with no_space(copy):
                fetch(table, copy)
        except FileNotFoundError as error:
            raise UserError(f"captions: {shown(table)} does not exist; check the address") from error
        yield copy


def entry_for(row: ClipRow, caption: str, by: str) -> ClipCaption:
    """A caption as the book has it."""
    return ClipCaption(row.clip["key"], row.clip["sha256"], caption, by, text_digest(row.caption.of_file))


def join(assembly: Assembly, table: Path, tag: str | None = None) -> Joined:
    """Put the captions of a table into the book. `tag`: how the sound's description is written (`SOUND_TAGS`).

    A row names a clip by its key; a column `sha256` must be that of its media, `by` may say who wrote it. Raises
    UserError for a table that cannot be read, or that names none of the clips.
    """
    clips = {row.clip["key"]: row for row in assembly.wanting(every=True)}
    every = {clip["key"] for _, item in assembly.finished for clip in item.clips}
    found = Joined()
    entries: dict[str, ClipCaption] = {}
    known = 0
    for line in read_table(table, (ID_COLUMNS, CAPTION_COLUMNS), "captions"):
        if line.empty:
            continue
        if line.fault:
            raise UserError(f"captions: {shown(table)}: {line.fault}")
        try:
            name = line.name(ID_COLUMNS)
            caption = line.text(CAPTION_COLUMNS)
            if not name:
                raise UserError(f"it must have {ID_COLUMNS[0]} (or id)")
        except UserError as error:
            raise UserError(f"captions: {shown(table)}: line {line.line}: {error}") from None
        key = name if name in every else plain_id(name)
        known += key in every
        if not caption:
            found.empty += 1
        elif key not in every:
            found.refused.append((name, "no clip has this key"))
        elif key not in clips:
            found.not_kept += 1
        elif key in entries and entries[key].caption != with_tag(caption, tag):
            raise UserError(
                f"captions: {shown(table)}: line {line.line}: a second caption of {shown(name)}; keep one"
            )
        elif fault := _fault(line, caption, clips[key]):
            found.refused.append((name, fault))
        else:
            by = line.values.get("by")
            entries[key] = entry_for(
                clips[key], with_tag(caption, tag), by if isinstance(by, str) and by else JOINED
            )
            found.without_sound += not has_sound_description(caption)
    if not known:
        example = f", such as {shown(min(every))}" if every else ""
        raise UserError(
            f"captions: {shown(table)}: names none of the {len(every)} clips by their keys{example}"
        )
    assembly.book.add(entries.values())
    found.used = len(entries)
    return found


def _fault(line: TableRow, caption: str, row: ClipRow) -> str:
    """Why a caption cannot be that of a clip, or ""."""
    sha256 = line.values.get("sha256")
    if sha256 is not None and sha256 != row.clip["sha256"]:
        return "the clip was cut anew since: its sha256 is another"
    if fault := unusable(caption):
        return f"its caption {fault}"
    try:
        check_tags(caption)
    except UserError as error:
        return str(error)
    return ""


def convert(assembly: Assembly, tag: str) -> int:
    """Write the sound of all captions in one form; the number of captions that changed."""
    rows, _ = assembly.rows()
    entries = []
    for row in rows:
        converted = with_tag(row.caption.text, tag)
        if converted != row.caption.text and row.clip["sha256"] is not None:
            entries.append(entry_for(row, converted, row.caption.by or JOINED))
    assembly.book.add(entries)
    return len(entries)


def reasons(refused: Sequence[tuple[str, str]]) -> Counter[str]:
    """How often each reason was given."""
    return Counter(reason for _, reason in refused)
