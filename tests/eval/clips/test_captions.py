"""Captions of clips that are scored: where they come from, and what is reported of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.small_metrics import write_clips
from ovi_eval.cli import main
from ovi_eval.clips.captions import plain_id, read_caption_file
from ovi_eval.clips.items import find_items, items_in
from ovi_eval.common.places import without_places
from ovi_eval.errors import UserError


def captions_of(folder: Path) -> dict[str, str]:
    return {item.id: item.caption for item in items_in(folder)}


def test_ids_are_names_without_a_media_suffix() -> None:
    for name, id in {
        "a.mp4": "a",
        "./b/c.WAV": "b/c",
        "b\\c.mov": "b/c",
        "a.b": "a.b",
        "001": "001",
        "cafe\u0301.mp4": "caf\u00e9",
    }.items():
        assert plain_id(name) == id


def test_a_line_break_or_line_separator_in_a_caption_stays(tmp_path: Path) -> None:
    for name, content in {
        "a.csv": 'id,caption\na,"A dog barks\nrain\u2028falls"\n',
        "a.tsv": 'id\tcaption\na\t"A dog barks\nrain\u2028falls"\n',
        "a.jsonl": json.dumps({"id": "a", "caption": "A dog barks\nrain\u2028falls"}, ensure_ascii=False),
    }.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert read_caption_file(tmp_path / name) == {"a": "A dog barks\nrain\u2028falls"}


def test_a_table_never_captions_a_clip_of_another_folder(tmp_path: Path) -> None:
    write_clips(tmp_path, 1)
    write_clips(tmp_path / "b", 1)
    (tmp_path / "captions.csv").write_text("file,caption\nc00.mp4,here\nc99.mp4,nowhere\n")
    assert captions_of(tmp_path) == {"b/c00": "", "c00": "here"}
    assert find_items(tmp_path).notes == ["1 captions belong to no clip: c99"]


def test_a_text_that_cannot_be_read_is_named_and_its_clip_has_no_caption(tmp_path: Path, capsys) -> None:
    write_clips(tmp_path / "set", 3)
    folder = tmp_path / "set"
    (folder / "c00.txt").write_bytes("caf\u00e9".encode("cp1252"))
    (folder / "c01.TXT").write_bytes("caf\u00e9".encode("utf-16"))
    (folder / "c02.txt").write_text("from a text")
    (folder / "c09.txt").write_text("of no clip")
    (folder / "captions.jsonl").write_text('{"id": "c02", "caption": "from the table"}')
    assert captions_of(folder) == {"c00": "", "c01": "caf\u00e9", "c02": "from the table"}
    told = find_items(folder).notes
    assert told[0] == "1 file ignored (1 .txt)"
    assert "caption left out" in told[1]
    assert "c00.txt: is no UTF-8 text" in told[1]
    assert told[2] == "captions.jsonl gives 1 clip another caption, which is used: c02"
    out = tmp_path / "r.json"
    assert main(["score", str(folder), "--metrics", "ball/agreement", "--out", str(out), "--no-cache"]) == 0
    assert json.loads(out.read_text())["notes"] == list(map(without_places, told))
    assert "c00.txt" in capsys.readouterr().out
    (folder / "captions.jsonl").write_text("{")
    assert main(["score", str(folder), "--metrics", "ball/agreement", "--out", str(out)]) == 2
    assert "captions.jsonl: line 1: is no JSON" in capsys.readouterr().err


def test_rows_that_a_spreadsheet_leaves_empty_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,caption\na,rain\n,\n,\n")
    assert read_caption_file(tmp_path / "a.csv") == {"a": "rain"}


def test_captions_that_are_not_clear_are_refused(tmp_path: Path) -> None:
    for content, words in {
        "id,caption\na,A red car, fast\n": "line 2 has 3 fields",
        "id,caption\n,rain\n": "line 2: it must have file",
        "id,caption\ncaf\u00e9.mp4,one\ncafe\u0301.wav,two\n": "line 3: it gives caf\u00e9 a second text",
    }.items():
        (tmp_path / "a.csv").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=words):
            read_caption_file(tmp_path / "a.csv")
