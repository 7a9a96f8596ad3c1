"""Captions of a folder of clips: a text beside each file, or one table for all.

A table is CSV, TSV or JSON lines with a column that names the file and one for its caption (`file` and `caption`,
or another of the usual names; see docs/captions.md). A file is named by its path relative to the folder, with or
without its extension: `001.mp4` is a file in the folder itself and never one in a folder below it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePath, PurePosixPath

from ovi_eval.clips.captions import CAPTION_COLUMNS, clip_id, few, nfc, read_texts
from ovi_eval.common.folders import files_of
from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import read_caption_text
from ovi_lab.data.index import BadSampleError
from ovi_lab.errors import UserError


class Captions:
    """Captions by file.

    Args:
        folder: the clips' folder.
        table: a .csv, .tsv or .jsonl file; None: `<clip>.txt` beside each clip.

    Raises:
        UserError: the table cannot be read, names no such columns, or names a file twice with two captions.
    """

    def __init__(self, folder: Path, table: Path | None = None) -> None:
        self.folder, self.table = folder, table
        self._by_name: dict[str, str] = {}
        self._unused: dict[str, str] = {}
        self._texts: dict[str, Path] = {}
        try:
            if table is not None:
                self._by_name = read_texts(table, CAPTION_COLUMNS, "captions", name_in_table, self._unused)
                if not self._by_name:
                    raise UserError(f"{shown(table)}: holds no captions")
            else:
                texts = files_of(folder, (".txt",)).files
                self._texts = {clip_id(text.relative_to(folder)): text for text in texts}
        except UserError as error:
            raise UserError(f"captions: {error}") from error

    def of(self, file: Path) -> str | None:
        """The caption of that file of the folder, or None. Raises BadSampleError for a .txt that cannot be read."""
        relative = file.relative_to(self.folder)
        if self.table is None:
            text = self._texts.get(clip_id(relative))
            try:
                return read_caption_text(text) if text is not None else None
            except UserError as error:
                raise BadSampleError(
                    f"its caption {str(error).removeprefix(f'{shown(self.folder)}/')}"
                ) from error
        for name in names_of(relative):
            if name in self._by_name:
                self._unused.pop(name, None)
                return self._by_name[name]
        return None

    def summary(self) -> str:
        """The rows of the table that name none of the files looked up so far, in one line; or ""."""
        count = len(self._unused)
        if not count:
            return ""
        rows = "1 row of the captions names" if count == 1 else f"{count} rows of the captions name"
        return f"{rows} no file: {few(self._unused.values())}"

    def files(self) -> Collection[Path]:
        """The files that captions are read from."""
        return self._texts.values() if self.table is None else (self.table,)


def names_of(relative: PurePath) -> tuple[str, str]:
    """What a table may call a file: with its extension, which comes first, or without."""
    return _name(relative), clip_id(relative)


def name_in_table(name: str) -> str:
    """The name of a file in a table, as `names_of` gives it."""
    return _name(PurePosixPath(name.replace("\\", "/")))


def _name(path: PurePath) -> str:
    """A relative path as it is compared: extensions in any case are the same."""
    return nfc((path.parent / (path.stem + path.suffix.lower())).as_posix())
