"""The reader of tables of text: CSV, TSV and JSON lines, for captions, prompts and transcripts.

A row has as many fields as the header names columns, and quotes are closed: what would move a text into another
column or cut it is refused with its line. Only \\n, \\r and \\r\\n end a line (in JSON lines only \\n), so U+2028,
U+0085 and form feeds are characters of a text, and a line break inside quotes stays.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovi_eval.common.plain_data import parse_json
from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import read_text, unusable
from ovi_eval.errors import UserError

KINDS = (".csv", ".tsv", ".jsonl")
MAX_BYTES = 2**29
MAX_FIELD = 131_072
"""The longest text, in characters: what is longer is an unclosed quote or no text."""
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}


@dataclass(frozen=True)
class TableRow:
    """A row: its values by column name (in lower case, stripped), or its fault.

    `line` is where it begins, from 1. Values of CSV and TSV are texts without white space around; those of JSON lines
    may be anything that JSON has. With a `fault`, which names the line, there are no values.
    """

    line: int
    values: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    empty: bool = False
    """A row of a CSV or TSV whose fields are all empty, as spreadsheets write them below the last one."""

    def text(self, columns: Sequence[str], *, whole_numbers: bool = False) -> str | None:
        """The first non-empty text of the columns; "" if all are empty, None if there is none of them.

        `whole_numbers` become their digits. Raises UserError for any other value that is neither text nor null.
        """
        found = None
        for column in columns:
            value = self.values.get(column)
            if value is None:
                continue
            if whole_numbers and isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str):
                raise UserError(f"its {column} is {shown(repr(value), 40)}, expected text in quotes")
            if value.strip():
                return value.strip()
            found = ""
        return found

    def name(self, columns: Sequence[str]) -> str | None:
        """The first non-empty name of the columns, as `text`; whole numbers become their digits."""
        return self.text(columns, whole_numbers=True)


def read_table(
    path: str | Path, needed: Sequence[Sequence[str]], what: str, *, max_bytes: int = MAX_BYTES
) -> list[TableRow]:
    """The rows of a .csv, .tsv or .jsonl file in their order; empty lines are left out.

    Args:
        path: in UTF-8, with or without a byte order mark, or UTF-16 with one.
        needed: for each column that a CSV or TSV must have, the names that it may go by.
        what: the content in messages, such as "captions".
        max_bytes: of the file.

    A .csv whose header names the needed columns with semicolons or tabs between them is read so.

    Raises:
        UserError: the file cannot be read as text, is of another kind, lacks a column, names one twice, or has quotes
            that are not closed or stand before other characters. A row of too few or too many fields, or a line that
            is no JSON object, is the row's `fault`.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise UserError(f"{shown(path)}: {what} come in a .csv, .tsv or .jsonl file")
    text = read_text(path, max_bytes=max_bytes)
    if kind == ".jsonl":
        return [
            _json_row(line, number)
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip(" \t\r\ufeff")
        ]
    return list(_rows(path, text, _delimiter(text, kind, needed), needed, what))


def _rows(
    path: Path, text: str, delimiter: str, needed: Sequence[Sequence[str]], what: str
) -> Iterator[TableRow]:
    # skipinitialspace: a quote after ", " opens a field too
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    columns: list[str] | None = None
    begins = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{shown(path)}: {_csv_fault(str(error), begins, reader.line_num)}") from error
        if fields is None:
            break
        line, begins = begins, reader.line_num + 1
        values = [_lines(value).strip() for value in fields]
        if not any(values):
            if len(values) > 1 and columns is not None:
                yield TableRow(line, dict.fromkeys(columns, ""), empty=True)
            continue
        if columns is None:
            columns = _columns(path, values, needed, delimiter)
        elif len(values) == len(columns):
            # a column without a name, as of numbered rows, cannot be requested
            named = {column: value for column, value in zip(columns, values, strict=True) if column}
            yield TableRow(line, named)
        else:
            fault = f"line {line} has {len(values)} of the {len(columns)} fields that the header names"
            if len(values) > len(columns):
                fault = (
                    f"line {line} has {len(values)} fields and the header names {len(columns)}: put {what} with "
                    f"{_DELIMITERS[delimiter]}s in quotes"
                )
            yield TableRow(line, fault=fault)
    if columns is None:
        _columns(path, [], needed, delimiter)


def _columns(path: Path, header: list[str], needed: Sequence[Sequence[str]], delimiter: str) -> list[str]:
    columns = [_column(name) for name in header]
    found = ", ".join(shown(name, 40) for name in header) or "none"
    for names in needed:
        if not set(names) & set(columns):
            raise UserError(
                f"{shown(path)}: has the columns {found}: expected a first line that names "
                f"{' and '.join(n[0] for n in needed)}, with a {_DELIMITERS[delimiter]} between"
            )
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{shown(path)}: its first line names the column {shown(twice, 40)} twice; keep one")
    return columns


def _delimiter(text: str, kind: str, needed: Sequence[Sequence[str]]) -> str:
    """A tab in a .tsv; in a .csv the one that gives a header with the needed columns, a comma before others."""
    if kind == ".tsv":
        return "\t"
    start = text[:MAX_FIELD].lstrip("\r\n ")
    for delimiter in _DELIMITERS:
        try:
            header = next(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), [])
        except csv.Error:
            continue
        columns = {_column(name) for name in header}
        if all(columns & set(names) for names in needed):
            return delimiter
    return ","


def _json_row(line: str, number: int) -> TableRow:
    try:
        value = parse_json(line.strip(" \t\r\ufeff"), f"line {number}")
    except UserError as error:
        return TableRow(number, fault=str(error))
    if not isinstance(value, dict):
        return TableRow(
            number, fault=f"line {number}: is {shown(line, 40)}, expected an object such as {{…}}"
        )
    values: dict[str, Any] = {}
    for key, own in value.items():
        column = _column(key)
        if column in values:
            return TableRow(number, fault=f"line {number}: names the key {shown(column, 40)} twice; keep one")
        if isinstance(own, str) and (len(own) > MAX_FIELD or unusable(own)):
            why = unusable(own) or f"is longer than {MAX_FIELD} characters"
            return TableRow(number, fault=f"line {number}: its {shown(column, 40)} {why}")
        values[column] = _lines(own) if isinstance(own, str) else own
    return TableRow(number, values)


def _column(name: str) -> str:
    return name.strip().strip("\ufeff").strip().lower()


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _csv_fault(problem: str, begins: int, now: int) -> str:
    if "unexpected end of data" in problem:
        return f"the row that begins in line {begins} has a quote that is never closed"
    if "field larger" in problem:
        return (
            f"the row that begins in line {begins} has a field larger than {MAX_FIELD} characters; "
            "is a quote not closed?"
        )
    if "expected after" in problem:
        return f'line {now} has characters behind a closing quote; double the quotes inside of a field ("")'
    return f"line {now} cannot be read ({shown(problem)})"
