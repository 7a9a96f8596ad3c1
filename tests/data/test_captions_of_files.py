"""Captions of files: by relative path, in either form of Unicode, in the encodings that are meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovi_eval.clips.writing import write_mp4
from ovi_lab.data.captions import Captions
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.index import BadSampleError
from ovi_lab.data.pack import pack_folder
from ovi_lab.data.pack_options import PackOptions
from ovi_lab.errors import UserError


def table(tmp_path: Path, content: str, name: str = "c.csv") -> Captions:
    (tmp_path / name).write_text(content, encoding="utf-8")
    return Captions(tmp_path / "in", tmp_path / name)


def test_a_bare_name_is_a_file_of_the_folder_itself(tmp_path: Path) -> None:
    captions = table(tmp_path, "file,caption\n001.mp4,in the folder\nb/002.mp4,below\n")
    folder = tmp_path / "in"
    assert captions.of(folder / "001.mp4") == "in the folder"
    assert captions.of(folder / "b/001.mp4") is None
    assert captions.of(folder / "002.mp4") is None
    assert captions.of(folder / "b/002.mp4") == "below"


def test_names_are_compared_as_people_write_them(tmp_path: Path) -> None:
    rows = {
        "./a.mp4": "a.mp4",
        "b\\\\c.mp4": "b/c.mp4",
        "D.MP4": "D.mp4",
        "e.mp4": "e.MP4",
        "caf\u00e9.mp4": "cafe\u0301.mp4",
        "x/cafe\u0301": "x/caf\u00e9.mkv",
        "two.dots.one": "two.dots.one.mp4",
        " f ": "f.mp4",
        "001": "001.mp4",
        "g//h.mp4": "g/h.mp4",
    }
    content = "file,caption\n" + "".join(f"{name},{number}\n" for number, name in enumerate(rows))
    captions = table(tmp_path, content.replace("\\\\", "\\"))
    for number, file in enumerate(rows.values()):
        assert captions.of(tmp_path / "in" / file) == str(number), file
    assert captions.summary() == ""
    assert captions.of(tmp_path / "in/d.mp4") is None  # only an extension's case is left aside
    assert captions.of(tmp_path / "in/1.mp4") is None


def test_names_that_are_no_file_are_told(tmp_path: Path) -> None:
    captions = table(tmp_path, "file,caption\n.,a\n..,b\n/,c\n/elsewhere/a.mp4,d\n\u202ea.mp4,e\n")
    assert captions.of(tmp_path / "in/a.mp4") is None
    assert captions.summary() == "5 rows of the captions name no file: ., .., / and 2 more"


def test_a_name_with_its_extension_comes_before_one_without(tmp_path: Path) -> None:
    captions = table(tmp_path, "file,caption\na,any\na.mp4,the mp4\nz.mp4,nowhere\n")
    assert captions.of(tmp_path / "in/a.mp4") == "the mp4"
    assert captions.summary() == "2 rows of the captions name no file: a, z.mp4"
    assert captions.of(tmp_path / "in/a.mov") == "any"
    assert captions.summary() == "1 row of the captions names no file: z.mp4"


def test_columns_go_by_their_usual_names(tmp_path: Path) -> None:
    for header in ("file_name,text", "Path, Prompt ", "id,caption", "VIDEO,description"):
        assert table(tmp_path, f"{header}\n001.mp4,rain\n").of(tmp_path / "in/001.mp4") == "rain"
    numbered = table(tmp_path, '{"id": 7, "file": "001.mp4", "caption": "rain"}', "c.jsonl")
    assert numbered.of(tmp_path / "in/001.mp4") == "rain"
    assert table(tmp_path, '{"id": 7, "caption": "rain"}', "c.jsonl").of(tmp_path / "in/7.mp4") == "rain"


def test_texts_are_kept_whole(tmp_path: Path) -> None:
    captions = table(tmp_path, 'file,caption\na,"He said ""hi"",\nand\u2028left"\n')
    assert captions.of(tmp_path / "in/a.mp4") == 'He said "hi",\nand\u2028left'
    assert table(tmp_path, "file,caption\na,one\na,one\n").of(tmp_path / "in/a.mp4") == "one"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "clip,words\n", "has the columns clip, words: expected a first line that names file and"),
        ("a.csv", "file,caption\n", "holds no captions"),
        ("a.csv", "file,caption\na,one\n./a,two\n", "line 3: it gives a a second text that differs"),
        ("a.csv", "file,caption\na,A red car, fast\n", r"a\.csv: line 2 has 3 fields and the header names 2"),
        ("b.jsonl", '{"file": 3}\n', r"line 1: it must have file \(or id\) and caption"),
        ("c.jsonl", "{\n", "line 1: is no JSON"),
        ("e.yaml", "", "come in a .csv, .tsv or .jsonl file"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table(tmp_path, content, name)
    with pytest.raises(UserError, match="no such file"):
        Captions(tmp_path, tmp_path / "none.csv")


def test_a_text_beside_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, raw in {
        "utf8": "A caf\u00e9".encode(),
        "bom": "A caf\u00e9".encode("utf-8-sig"),
        "utf16": "A caf\u00e9".encode("utf-16"),
        "cp1252": b"A caf\xe9 \x93q\x94",
        "sjis": "\u7537".encode("shift_jis"),
        "nul": b"A\0man",
    }.items():
        (folder / f"{name}.txt").write_bytes(raw)
    (folder / "upper.TXT").write_text("A caf\u00e9")
    (folder / "e\u0301.txt").write_text("A caf\u00e9")
    captions = Captions(folder)
    for name in ("utf8", "bom", "utf16", "upper", "\u00e9"):
        assert captions.of(folder / f"{name}.mp4") == "A caf\u00e9"
    for name in ("cp1252", "sjis", "nul"):
        with pytest.raises(BadSampleError, match=rf"its caption {name}\.txt: "):
            captions.of(folder / f"{name}.mp4")
    assert captions.of(folder / "none.mp4") is None


def test_pack_names_and_skips_a_caption_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name, raw in {"good": "A caf\u00e9".encode("utf-16"), "bad": b"A caf\xe9"}.items():
        frames_THWC = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
        write_mp4(folder / f"{name}.mp4", frames_THWC, 8.0, torch.zeros(4000), 8000, enlarge_to=0)
        (folder / f"{name}.txt").write_bytes(raw)
    options = PackOptions(height=32, width=32, fps=8.0)
    report = pack_folder(folder, tmp_path / "a", options, quiet=True)
    assert ClipDataset(report.shards).media(0).caption == "A caf\u00e9"
    (bad,) = report.skipped
    assert (bad.key, bad.reason.partition(" (")[0]) == (
        "bad.mp4",
        "its caption bad.txt: is no UTF-8 text, nor UTF-16 with a byte order mark",
    )
    with pytest.raises(UserError, match=r"bad\.mp4: its caption bad\.txt"):
        pack_folder(folder, tmp_path / "b", replace(options, on_error="raise"), quiet=True)
    assert not list(tmp_path.glob("b*.tar"))
