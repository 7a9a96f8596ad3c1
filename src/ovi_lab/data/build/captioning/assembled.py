"""A finished build taken up again, without its videos: the same decisions with other captions, the same shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovi_eval.common.shown import shown
from ovi_lab.data.build.assemble import Built, ClipRow, about_of, rows_of, write_all
from ovi_lab.data.build.build import alone, clean
from ovi_lab.data.build.clip_captions import CaptionBook, CaptionFound, KnownCaptions
from ovi_lab.data.build.folder import BuiltFolder
from ovi_lab.data.build.items import WORK, FinishedSource, SourceFile, all_items, is_current
from ovi_lab.errors import UserError


@dataclass(frozen=True)
class Assembly:
    """What shards are assembled from.

    `of_files`: the files' captions by the key of a clip.
    """

    folder: BuiltFolder
    finished: list[tuple[SourceFile, FinishedSource]]
    of_files: dict[str, str]
    book: CaptionBook

    def rows(self) -> tuple[list[ClipRow], Built]:
        """Every clip with its decision by the captions that are there now."""
        return rows_of(self.finished, self.folder.recipe, KnownCaptions(self.of_files, self.book))

    def wanting(self, every: bool = False) -> list[ClipRow]:
        """The clips that would be kept but for a caption, which they lack; with `every` those with one too."""
        recipe = replace(self.folder.recipe, without_caption="empty")
        rows, _ = rows_of(self.finished, recipe, KnownCaptions(self.of_files, self.book))
        return [row for row in rows if row.decision.kept and (every or not row.caption.text)]

    def write(self) -> Built:
        """Shards, clips.jsonl, manifest and sums in place of those that are there."""
        rows, built = self.rows()
        manifest = self.folder.manifest
        for name, reason in manifest["sources"]["failed"].items():
            built.failed.setdefault(name, reason)
        write_all(self.folder.path, self.folder.work, rows, built, self.folder.recipe, about_of(manifest))
        return built


@contextmanager
def taken_up(path: Path) -> Iterator[Assembly]:
    """Holds a finished build, so that no other command writes to it.

    Raises:
        UserError: there is none, another command has it, or what it was made from is gone or has gone on since.
    """
    work = path / WORK
    if not work.is_dir():
        BuiltFolder.open(path)
        raise UserError(
            f"{shown(work)} is gone, which holds the clips that captions are joined to; build again"
        )
    with alone(work):
        clean(path, work)
        yield _assembly(BuiltFolder.open(path))


def _assembly(folder: BuiltFolder) -> Assembly:
    rows: dict[str, list[dict[str, Any]]] = {}
    of_files: dict[str, str] = {}
    for row in folder.rows():
        rows.setdefault(row["source"], []).append(row)
        of_files[row["key"]] = CaptionFound.from_plain(row).of_file
    finished = []
    for item in all_items(folder.work):
        own = {row["key"]: row["scores"] for row in rows.pop(item.source, [])}
        measured = {clip["key"]: clip["scores"] for clip in item.clips}
        given = {
            name: value
            for key, scores in own.items()
            for name, value in scores.items()
            if name not in measured.get(key, {}) and isinstance(value, int | float | str)
        }
        source = SourceFile(Path(item.source), item.source, "", given)
        if own.keys() != measured.keys() or not is_current(item, source, folder.recipe):
            raise _gone_on(folder)
        finished.append((source, item))
    if rows:
        raise _gone_on(folder)
    return Assembly(folder, finished, of_files, CaptionBook(folder.work))


def _gone_on(folder: BuiltFolder) -> UserError:
    return UserError(
        f"{shown(folder.work)} is not of the build that {shown(folder.path)} holds: its ovi-data build was started "
        "anew and stopped; run it again first"
    )
