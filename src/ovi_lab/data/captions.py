"""Captions of a folder of clips: a text beside each file, or one table for all.

A table is CSV with the columns `file` and `caption`, or JSON lines with those two keys; `file` is the path
relative to the folder, with or without its extension.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from ovi_lab.errors import UserError


class Captions:
    """Looks captions up by file.

    Args:
        folder: of the clips.
        table: a .csv or .jsonl file; None: `<clip>.txt` beside each clip.

    Raises:
        UserError: the table cannot be read, names no such columns, or names a file twice with two captions.
    """

    def __init__(self, folder: Path, table: Path | None = None) -> None:
        self.folder, self.table = folder, table
        self._by_name: dict[str, str] = {}
        if table is None:
            return
        if not table.is_file():
            raise UserError(
                f"the captions {table} do not exist; name a .csv or .jsonl file, or leave it out for .txt"
            )
        try:
            for line, (name, caption) in enumerate(_rows(table), 1):
                if self._by_name.setdefault(name, caption) != caption:
                    raise UserError(f"{table} names {name} twice with two captions (row {line})")
        except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
            raise UserError(f"the captions {table} cannot be read ({error})") from error

    def of(self, file: Path) -> str | None:
        """The caption of that file of the folder, or None."""
        if self.table is None:
            beside = file.with_suffix(".txt")
            return beside.read_text(encoding="utf-8", errors="replace").strip() if beside.is_file() else None
        relative = file.relative_to(self.folder)
        for name in (relative.as_posix(), relative.with_suffix("").as_posix(), file.name, file.stem):
            if name in self._by_name:
                return self._by_name[name]
        return None


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    """(file, caption) of each row."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        if table.suffix == ".csv":
            reader = csv.DictReader(file)
            missing = {"file", "caption"} - set(reader.fieldnames or ())
            if missing:
                raise UserError(
                    f"{table} has no column {' or '.join(sorted(missing))}; it needs file and caption"
                )
            yield from ((row["file"], (row["caption"] or "").strip()) for row in reader)
        elif table.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict) or not all(
                    isinstance(row.get(k), str) for k in ("file", "caption")
                ):
                    raise UserError(
                        f'{table} line {number} is not an object with "file" and "caption" in words'
                    )
                yield row["file"], row["caption"].strip()
        else:
            raise UserError(
                f"the captions {table} end in {table.suffix or 'nothing'}; expected .csv or .jsonl"
            )
