"""What is asked for: prompts' forms and tags, tables of prompts as they come, and rows that cannot be made."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ovi_lab.checkpoints.presets import released_model
from ovi_lab.errors import UserError
from ovi_lab.sampling.requests import (
    MAX_SEED,
    Request,
    check_request,
    file_name,
    prompt_name,
    read_requests,
    variants,
)
from ovi_lab.text.prompts import check_tags, with_sound_as

PNG = b"\x89PNG"


def test_prompts_are_formed_as_each_released_model_reads_them(cases: dict[str, Any]) -> None:
    assert len(cases["prompt_formatter"]) == 8
    for case in cases["prompt_formatter"]:
        tag = released_model(f"ovi_{case['model']}").audio_tag
        assert with_sound_as(case["prompt"], tag) == case["out"], case
        assert with_sound_as(case["out"], tag) == case["out"]


def test_clips_are_named_as_the_released_code_names_them(cases: dict[str, Any]) -> None:
    """Apart from colons, commas, spaces and line ends, which not every file system takes."""
    assert len(cases["filename"]) == 4
    for case in cases["filename"]:
        assert prompt_name(case["prompt"]) == file_name(case["out"]), case
    assert prompt_name("<S>") == "clip"


@pytest.mark.parametrize(
    "prompt",
    [
        "rain",
        "<S>Hello.<E>",
        "He says <S>a<E>, she <S>b<E>. <AUDCAP>wind<ENDAUDCAP>",
        "a <b>bold</b> word, 3 < 4",
        "He says <S>\nover two lines\n<E>. Audio: wind",
    ],
)
def test_tags_in_order_are_accepted(prompt: str) -> None:
    check_tags(prompt)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        ("he says <S>hello", "<S> in the prompt (at <S>hello…) is never closed: put <E> after it"),
        ("he says hello<E> there", "closes nothing: put <S> before"),
        ("<S>one <S>two<E>", "not closed by <E> before the next <S>"),
        ("<S>one<ENDAUDCAP>", "is closed by <ENDAUDCAP>, expected <E>"),
        ("<AUDCAP>wind", "put <ENDAUDCAP> after it"),
        ("<AUDCAP>wind <S>a<E><ENDAUDCAP>", "before the next <S>"),
        ("wind<ENDAUDCAP>", "put <AUDCAP> before"),
        ("he says <S> <E>", "holds no words"),
    ],
)
def test_broken_tags_are_quoted(prompt: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        check_tags(prompt)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_released_tables_are_read_as_they_are(shared_dir: Path, tmp_path: Path) -> None:
    for name, count in (("t2v", 12), ("10s_t2v", 14), ("i2v", 25), ("10s_i2v", 14)):
        source = shared_dir / "reference" / f"gpt_examples_{name}.csv"
        with source.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            if row.get("image_path"):
                (tmp_path / row["image_path"]).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / row["image_path"]).write_bytes(PNG)
        (tmp_path / source.name).write_bytes(source.read_bytes())
        requests, bad = read_requests(tmp_path / source.name, seed=5)
        assert not bad
        assert len(requests) == count
        assert [r.prompt for r in requests] == [row["text_prompt"].strip() for row in rows]
        assert [r.name for r in requests[:2]] == ["0001_seed5", "0002_seed5"]
        if "i2v" in name:
            assert [r.image for r in requests] == [tmp_path / row["image_path"] for row in rows]
            # without their images, each row is named
            requests, bad = read_requests(source)
            assert not requests
            assert len(bad) == count
            assert "row 1: no image at" in bad[0].reason


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_every_kind_says_the_same(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    rows: list[dict[str, Any]] = [
        {"text_prompt": 'rain, "soft",\nand wind', "note": "x"},
        {"text_prompt": "a\u2028b", "image_path": "a.png", "id": "clip/one two", "seed": 7},
        {"text_prompt": "c", "size": "704x1280", "negative_audio": "hiss"},
        {"text_prompt": "d", "aspect": "16:9", "image_path": "a.png"},
    ]
    requests, bad = read_requests(write(tmp_path / f"p.{kind}", rows), seed=3, shape=(1, 2))
    assert not bad
    assert requests == [
        Request("0001", 'rain, "soft",\nand wind', 3, None, (1, 2)),
        Request("clip_one_two", "a\u2028b", 7, tmp_path / "a.png", None),
        Request("0003", "c", 3, None, (704, 1280), None, "hiss"),
        Request("0004", "d", 3, tmp_path / "a.png", (9000, 16000)),
    ]


def test_bad_rows_are_named_and_the_others_stay(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text_prompt": "good"},
        {"text_prompt": ""},
        {"text_prompt": "<S>open"},
        {"text_prompt": "b", "image_path": "nothing.png"},
        {"text_prompt": "c", "seed": "-1"},
        {"text_prompt": "c", "seed": "1.5"},
        {"text_prompt": "d", "size": "1x"},
        {"text_prompt": "e", "size": "100x900"},
        {"text_prompt": "f", "size": "64x64", "aspect": "1:1"},
        {"text_prompt": "g", "id": "Same"},
        {"text_prompt": "h", "id": "same"},
        {"text_prompt": "good again"},
    ]
    requests, bad = read_requests(write(tmp_path / "p.csv", rows))
    assert [r.id for r in requests] == ["0001", "Same", "0012"]
    assert [row.id for row in bad] == [*(f"{number:04d}" for number in range(2, 10)), "same"]
    words = ["no text_prompt", "never closed", "no image at", "'-1'", "'1.5'", "HEIGHTxWIDTH", "9.0 times"]
    for row, word in zip(bad, [*words, "size and aspect are both", "that of row 10 too"], strict=True):
        assert word in row.reason
        assert row.reason.startswith("p.csv row ")
        assert "\n" not in row.reason


def test_json_rows_of_other_kinds_are_named(tmp_path: Path) -> None:
    lines = ['{"prompt": "ok", "id": 3}', "{", "[1]", '{"prompt": 5}', '{"prompt": "x", "seed": true}', ""]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    requests, bad = read_requests(tmp_path / "p.jsonl")
    assert [r.id for r in requests] == ["3"]
    assert len(bad) == 4


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", b"text_prompt\nrain\n", ".csv, .tsv or .jsonl"),
        ("none.csv", None, "no such file"),
        ("p.csv", b"", "no|none"),
        ("p.csv", b"text_prompt\n", "holds no prompts"),
        ("p.csv", b"caption,file\na,b\n", "columns caption, file"),
        ("p.csv", b"text_prompt\n\xff\xfe", "no UTF-8"),
        ("p.csv", b'text_prompt\n"' + b"a" * 200_000 + b'"\n', "field larger"),
        ("p.jsonl", b"\n\n", "holds no prompts"),
    ],
)
def test_files_that_are_none_are_refused(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        read_requests(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_prompt_whose_commas_are_not_quoted_is_told(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("text_prompt,image_path\nrain, wind, and snow\n")
    (bad,) = read_requests(tmp_path / "p.csv")[1]
    assert "put prompts with commas in quotes" in bad.reason


def test_a_table_of_prompts_is_read_as_one_of_captions(tmp_path: Path) -> None:
    """The one reader of tables: encodings, headers, delimiters, forms of names."""
    (tmp_path / "img").mkdir()
    (tmp_path / "img/cafe\u0301.png").write_bytes(PNG)
    content = " Text_Prompt ; IMAGE_PATH;id\r\nrain, wind;img\\caf\u00e9.png;001\r\n\r\nsnow;;cafe\u0301\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "p.csv").write_bytes(content.encode(encoding))
        requests, bad = read_requests(tmp_path / "p.csv")
        assert bad == []
        assert [(r.id, r.prompt) for r in requests] == [("001", "rain, wind"), ("caf\u00e9", "snow")]
        assert requests[0].image is not None
        assert requests[0].image.is_file()


def test_what_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    lines = [
        '{"prompt": "a\\u0000b"}',
        '{"prompt": "\\ud83d"}',
        '{"prompt": "x", "image": "' + "i" * 5000 + '"}',
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    reasons = [row.reason for row in read_requests(tmp_path / "p.jsonl")[1]]
    for reason, words in zip(
        reasons, ["holds a NUL", "half of a surrogate pair", "no image at"], strict=True
    ):
        assert words in reason
        assert len(reason) < 300
    with pytest.raises(UserError, match="half of a surrogate pair"):  # a terminal that is not UTF-8
        check_request(Request("a", "caf\udce9"))


def test_variants_have_successive_seeds() -> None:
    made = variants([Request("a", "x", 4), Request("b", "x", 9)], 3)
    assert [r.name for r in made] == ["a_seed4", "a_seed5", "a_seed6", "b_seed9", "b_seed10", "b_seed11"]
    for count in (0, -1, True, 1.5):
        with pytest.raises(UserError, match="variants is"):
            variants([], count)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="seed is"):
        variants([Request("a", "x", MAX_SEED)], 2)
    with pytest.raises(UserError, match="seed is -1"):
        check_request(Request("a", "x", -1))


def test_names_of_files_hold_on_any_system() -> None:
    assert file_name("../../etc/passwd") == "etc_passwd"
    assert file_name("a: b/c\\d\n<e>") == "a_b_c_d_e"
    assert file_name("...") == ""
    long = file_name("雨" * 300)
    assert long.startswith("雨雨")
    assert len(long.encode()) <= 120
    assert long != file_name("雨" * 301)
