"""Tables of text: what moves a text into another column, cuts it or guesses at it is refused with its line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ovi_eval.common.tables import MAX_FIELD, TableRow, read_table
from ovi_eval.common.unicode_text import read_caption_text
from ovi_eval.errors import UserError

NEEDED = (("id", "file"), ("caption", "text"))


def rows(path: Path, content: str | bytes) -> list[TableRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, NEEDED, "captions")


def pairs(path: Path, content: str | bytes) -> list[tuple[str | None, str | None]]:
    found = rows(path, content)
    assert [row.fault for row in found] == [""] * len(found)
    return [(row.name(NEEDED[0]), row.text(NEEDED[1])) for row in found]


TEXTS = [
    "plain",
    'He said "hi, there" loudly',
    "A dog barks\nrain falls",
    "tab\there; semicolon",
    "a\u2028b\u2029c\x85d\x0ce\x0bf\x1cg",
    "\u96e8, \U0001f327",
    "001",
    "",
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        *((kind, ends) for kind in ("csv", "tsv", "jsonl") for ends in ("\n", "\r\n")),
        ("csv", "\r"),  # only a line feed ends a line of JSON
        ("tsv", "\r"),
    ],
)
def test_what_is_written_is_read_whatever_the_encoding_and_the_line_ends(
    tmp_path: Path, kind: str, ends: str, encoding: str
) -> None:
    if kind == "jsonl":
        content = ends.join(
            json.dumps({"id": f"{n:03}", "caption": text}, ensure_ascii=False) for n, text in enumerate(TEXTS)
        )
        path = tmp_path / "t.jsonl"
        path.write_bytes(content.encode(encoding))
    else:
        path = tmp_path / f"t.{kind}"
        with path.open("w", encoding=encoding, newline="") as file:
            # this writer quotes line feeds only where they end lines
            quoting = csv.QUOTE_ALL if ends == "\r" else csv.QUOTE_MINIMAL
            delimiter = "," if kind == "csv" else "\t"
            writer = csv.writer(file, delimiter=delimiter, lineterminator=ends, quoting=quoting)
            writer.writerows([("id", "caption"), *((f"{n:03}", text) for n, text in enumerate(TEXTS))])
    assert pairs(path, path.read_bytes()) == [(f"{n:03}", text) for n, text in enumerate(TEXTS)]


def test_line_ends_inside_quotes_become_line_feeds(tmp_path: Path) -> None:
    assert pairs(tmp_path / "t.csv", 'id,text\r\na,"one\r\ntwo\rthree"\r\n') == [("a", "one\ntwo\nthree")]


def test_headers_in_any_case_with_white_space_and_empty_rows(tmp_path: Path) -> None:
    content = "\n ID , Caption ,note\n\n a , two words ,x\n,,,,\n  \nb,c,\n"
    assert pairs(tmp_path / "t.csv", content) == [("a", "two words"), ("", ""), ("b", "c")]
    assert [row.empty for row in rows(tmp_path / "t.csv", content)] == [False, True, False]
    assert [row.line for row in rows(tmp_path / "t.csv", content)] == [4, 5, 7]
    assert pairs(tmp_path / "t.csv", ",id,caption\n0,a,b\n") == [("a", "b")]  # numbered rows of pandas
    assert pairs(tmp_path / "t.csv", 'id, "caption"\na, "b, c"\n') == [("a", "b, c")]
    assert pairs(tmp_path / "T.CSV", "id,caption\na,b\n") == [("a", "b")]
    assert pairs(tmp_path / "t.jsonl", '{"ID": " a ", "Caption": " b "}\n\n') == [("a", "b")]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_csv_with_another_delimiter_is_known_by_its_header(tmp_path: Path, delimiter: str) -> None:
    content = f'id{delimiter}caption\na{delimiter}rain, wind\nb{delimiter}"x{delimiter}y"\n'
    assert pairs(tmp_path / "t.csv", content) == [("a", "rain, wind"), ("b", f"x{delimiter}y")]


def test_ids_of_json_may_be_whole_numbers(tmp_path: Path) -> None:
    assert pairs(tmp_path / "t.jsonl", '{"id": 1, "caption": "x"}\n{"id": "01", "caption": "y"}') == [
        ("1", "x"),
        ("01", "y"),
    ]
    for value in ("1.5", "true", "[1]", '{"a": 1}'):
        (row,) = rows(tmp_path / "t.jsonl", f'{{"id": {value}, "caption": "x"}}')
        with pytest.raises(UserError, match=r"its id is .*, expected text in quotes"):
            row.name(NEEDED[0])
    (row,) = rows(tmp_path / "t.jsonl", '{"id": 1, "caption": 5}')
    with pytest.raises(UserError, match="its caption is 5, expected text in quotes"):
        row.text(NEEDED[1])
    (row,) = rows(tmp_path / "t.jsonl", '{"id": null, "file": "a", "text": null}')
    assert (row.name(NEEDED[0]), row.text(NEEDED[1])) == ("a", None)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "id,caption\n\na,A red car, fast\n", "line 3 has 3 fields and the header names 2"),
        (
            "t.csv",
            'id,caption\n"a\nb",x\nc,A "red, blue" car\n',
            "line 4 has 3 fields .* put captions with commas",
        ),
        ("t.csv", "id,caption\na,b,\n", "line 2 has 3 fields"),
        ("t.csv", "id,caption,note\na,b\n", "line 2 has 2 of the 3 fields"),
        ("t.tsv", "id\tcaption\na\tb\tc\n", "line 2 has 3 fields .* put captions with tabs in quotes"),
        ("t.csv", "id;caption\na;b;c\n", "put captions with semicolons in quotes"),
        ("t.jsonl", '{"id": "a"}\n[1]\n', r"line 2: is \[1\], expected an object"),
        ("t.jsonl", '{"id": "a"\n', "line 1: is no JSON"),
        ("t.jsonl", '\n{"id": "a", "id": "b"}\n', "line 2: names the key id twice"),
        ("t.jsonl", '{"id": "a", "ID": "b"}\n', "line 1: names the key id twice"),
        ("t.jsonl", '{"id": NaN}\n', "line 1: holds NaN"),
        ("t.jsonl", "[" * 5000 + "]" * 5000 + "\n", "line 1: is nested deeper"),
        ("t.jsonl", '{"caption": "a\\u0000b"}\n', "line 1: its caption holds a NUL"),
        ("t.jsonl", '{"caption": "\\ud83d"}\n', "line 1: its caption holds half of a surrogate pair"),
        ("t.jsonl", json.dumps({"id": "a" * (MAX_FIELD + 1)}), "line 1: its id is longer than"),
    ],
)
def test_a_row_that_is_none_is_told_with_its_line(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (fault,) = (row.fault for row in rows(tmp_path / name, content) if row.fault)
    assert fault.isprintable()
    with pytest.raises(UserError, match=words):
        raise UserError(fault)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b'id,caption\na,b\nc,"never closed\nd,e\n', "line 3 has a quote that is never closed"),
        (
            "t.csv",
            b'id,caption\na,"b" c\n',
            "line 2 has characters behind a closing quote; double the quotes",
        ),
        (
            "t.csv",
            b'id,caption\na,"' + b"x" * (MAX_FIELD + 1) + b'"\n',
            "line 2 has a field larger than 131072",
        ),
        ("t.csv", b"id,caption,Caption\n", "names the column caption twice"),
        (
            "t.csv",
            b"001.mp4,A red car\n",
            "has the columns 001.mp4, A red car: expected a first line that names id",
        ),
        ("t.tsv", b"id,caption\na,b\n", "with a tab between"),
        ("t.csv", b"", "has the columns none"),
        ("t.csv", "id,caption\na,caf\u00e9\n".encode("cp1252"), r"no UTF-8 text.*\(line 2, byte 16\)"),
        ("t.csv", b"\xef\xbb\xbfid,caption\na,caf\xe9\n", r"\(line 2, byte 19\)"),
        ("t.csv", "id,caption\na,\u7537\n".encode("shift_jis"), "no UTF-8 text"),
        ("t.csv", "id,caption\na,b\n".encode("utf-16-le"), "holds a NUL character"),
        ("t.csv", "id,caption\na,b\n".encode("utf-32"), "holds a NUL character"),
        ("t.csv", "id,caption\n".encode("utf-16") + b"\x00", "is broken UTF-16"),
        ("t.csv", b"id,caption\na,\xed\xa0\xbd\n", "no UTF-8 text"),
        ("t.jsonl", b'{"id": "\xff"}', "no UTF-8 text"),
        ("t.xlsx", b"PK", "captions come in a .csv, .tsv or .jsonl file"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        rows(tmp_path / name, content)
    assert str(error.value).isprintable()


def test_files_that_are_not_there_or_too_large(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    for name in ("t.csv", "d.csv"):
        with pytest.raises(UserError, match="no such file"):
            read_table(tmp_path / name, NEEDED, "captions")
    (tmp_path / "a.csv").write_text("id,caption\n")
    with pytest.raises(UserError, match="larger than the 2 bytes"):
        read_table(tmp_path / "a.csv", NEEDED, "captions", max_bytes=2)


def test_a_caption_of_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for raw in (
        "A caf\u00e9\n two \n".encode(),
        "A caf\u00e9\r\n two ".encode("utf-8-sig"),
        " A caf\u00e9\r two".encode("utf-16"),
    ):
        path.write_bytes(raw)
        assert read_caption_text(path) == "A caf\u00e9\n two"
    for raw in (b"A caf\xe9 \x93q\x94", "\u7537".encode("shift_jis"), "A man".encode("utf-16-be"), b"a\0"):
        path.write_bytes(raw)
        with pytest.raises(UserError, match=r"a\.txt"):
            read_caption_text(path)
