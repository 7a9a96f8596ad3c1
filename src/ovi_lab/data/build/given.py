"""Scores and captions that another builder gives for the files of a folder, in one table.

A row names a file as a table of captions does (docs/captions.md). Its caption is in one of the usual columns; of all
other columns numbers and short texts are scores, which a recipe may bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovi_eval.clips.captions import CAPTION_COLUMNS, ID_COLUMNS, few
from ovi_eval.common.shown import shown
from ovi_eval.common.tables import TableRow, read_table
from ovi_eval.common.unicode_text import unusable
from ovi_lab.data.captions import name_in_table, names_of
from ovi_lab.errors import UserError

LONGEST_TEXT = 200
"""Characters of a score that is a text, such as a language."""
Given = Mapping[str, float | str]


@dataclass
class GivenScores:
    """Scores and captions by file.

    `numbers`: columns with a number in some row, which bounds may name. `left_out`: columns whose values are neither
    numbers nor short texts, with the number of such rows.
    """

    numbers: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    _scores: dict[str, dict[str, float | str]] = field(default_factory=dict)
    _captions: dict[str, str] = field(default_factory=dict)
    _unused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> GivenScores:
        """The table of a .csv, .tsv or .jsonl file.

        Raises UserError naming the line: a row without a file, a file named twice, or a text that no file can hold.
        """
        found = cls()
        for row in read_table(path, (ID_COLUMNS,), "scores"):
            if row.empty:
                continue
            try:
                if row.fault:
                    raise UserError(row.fault)
                found._add(row)
            except UserError as error:
                where = "" if row.fault else f"line {row.line}: "
                raise UserError(f"scores: {shown(path)}: {where}{error}") from None
        if not found._unused:
            raise UserError(f"scores: {shown(path)}: holds no row")
        texts = {n for own in found._scores.values() for n, value in own.items() if isinstance(value, str)}
        numbers = {
            n for own in found._scores.values() for n, value in own.items() if not isinstance(value, str)
        }
        if mixed := sorted(texts & numbers):
            raise UserError(
                f"scores: {shown(path)}: {shown(mixed[0])} is a number in some rows and a text in others; "
                "give numbers as numbers in all rows"
            )
        found.numbers = tuple(sorted(numbers))
        return found

    def _add(self, row: TableRow) -> None:
        name = row.name(ID_COLUMNS)
        if not name:
            raise UserError(f"it must have {ID_COLUMNS[0]} (or id)")
        place = name_in_table(name)
        if place in self._unused:
            raise UserError(f"it names {shown(name)} a second time; keep one row a file")
        caption = row.text(CAPTION_COLUMNS)
        named = next(column for column in ID_COLUMNS if row.values.get(column) not in (None, ""))
        scores = {}
        for column, value in row.values.items():
            if column == named or column in CAPTION_COLUMNS or value is None or value == "":
                continue
            if (plain := _score(value)) is None:
                self.left_out[column] += 1
            else:
                scores[column] = plain
        if caption and (fault := unusable(caption)):
            raise UserError(f"its caption {fault}")
        self._unused[place] = name
        self._scores[place] = scores
        if caption:
            self._captions[place] = caption

    def scores(self, relative: Path) -> Given:
        """The scores of a file by its path relative to the folder; none where no row names it."""
        for name in names_of(relative):
            if name in self._scores:
                self._unused.pop(name, None)
                return self._scores[name]
        return {}

    def caption(self, relative: Path) -> str:
        """The caption of a file; "" where there is none."""
        return next((self._captions[name] for name in names_of(relative) if name in self._captions), "")

    def summary(self) -> list[str]:
        """What of the table is not used: rows that name none of the files asked for, and columns."""
        lines = []
        if self._unused:
            count = len(self._unused)
            rows = "1 row names" if count == 1 else f"{count} rows name"
            lines.append(f"{rows} no file: {few(self._unused.values())}")
        lines += [
            f"column {shown(name)}: no number or short text in {n} rows" for name, n in self.left_out.items()
        ]
        return lines


def _score(value: Any) -> float | str | None:
    """A score as builds hold it: a number of seven digits or a short text; None for anything else."""
    if isinstance(value, bool | int | float):
        return float(f"{value:.7g}")
    if not isinstance(value, str):
        return None
    try:
        number = float(value)
        return float(f"{number:.7g}") if abs(number) < float("inf") else None
    except ValueError:
        return None if len(value) > LONGEST_TEXT or unusable(value) else value
