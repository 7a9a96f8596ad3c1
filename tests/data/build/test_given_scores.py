"""Scores and captions that another builder gives: bounded by the recipe, kept, and refused where they are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from helpers.small_videos import RECIPE, moving, write
from ovi_lab.data.build.given import GivenScores
from ovi_lab.data.build.recipe import read_recipe
from ovi_lab.errors import UserError

ROWS = [
    {"file": "a.mp4", "caption": "one", "clip_score": 0.3123456789, "language": "en", "motion": 9.0},
    {"file": "sub\\b.MP4", "caption": "two", "clip_score": 0.1, "words": [1, 2], "seen": True},
    {"file": "gone.mp4", "clip_score": 1},
]


@pytest.mark.slow
def test_scores_of_a_table_are_bounded_and_kept(tmp_path: Path, ovi_data: Callable[..., str]) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    for seed, name in enumerate(("a.mp4", "sub/b.mp4", "c.mp4")):
        write(videos / name, moving(seed))
    table, recipe = tmp_path / "scores.jsonl", tmp_path / "mine.yaml"
    table.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    recipe.write_text(yaml.safe_dump({**RECIPE, "keep": {"clip_score": {"min": 0.25}}, "duplicates": {}}))
    printed = ovi_data("build", videos, out, "--recipe", recipe, "--scores", table)
    assert "1 row names no file: gone.mp4; column words: no number or short text in 1 rows" in printed
    assert "measured, so not from the table: motion" in printed
    rows = {row["key"]: row for row in map(json.loads, (out / "clips.jsonl").read_text().splitlines())}
    one, two, three = rows["a-000"], rows["sub/b-000"], rows["c-000"]
    assert (one["kept"], two["dropped_by"], three["kept"]) == (True, ["clip_score"], True)
    assert (one["scores"]["clip_score"], one["scores"]["language"], two["scores"]["seen"]) == (
        0.3123457,
        "en",
        1,
    )
    assert one["scores"]["motion"] != 9
    assert (one["caption"], one["caption_by"], three["caption"], three["caption_by"]) == (
        "one",
        "file",
        "",
        None,
    )
    # the table has another number now: the clip that was not stored is cut again, and none is measured anew
    table.write_text(json.dumps({**ROWS[1], "clip_score": 0.5}))
    ovi_data("build", videos, out, "--recipe", recipe, "--scores", table, "--rescore")
    rows = {row["key"]: row for row in map(json.loads, (out / "clips.jsonl").read_text().splitlines())}
    assert [rows[key]["kept"] for key in ("a-000", "sub/b-000", "c-000")] == [True, True, True]
    # without the table the recipe names a score that nothing gives
    assert "clip_score is unknown" in ovi_data("build", videos, out, "--recipe", recipe, code=2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"file": "a.mp4", "x": 1}\n{"file": "./A.mp4"}\n{"file": "a.mp4"}',
            "line 3: it names a.mp4 a second",
        ),
        ('{"x": 1}', "line 1: it must have file"),
        ('{"file": "a.mp4", "x": NaN}', "line 1: holds NaN"),
        (
            '{"file": "a.mp4", "x": 1}\n{"file": "b.mp4", "x": "much"}',
            "x is a number in some rows and a text",
        ),
        ('{"file": "a.mp4", "caption": 3}', "line 1: its caption is 3, expected text"),
        ("", "holds no row"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    table = tmp_path / "scores.jsonl"
    table.write_text(lines)
    with pytest.raises(UserError, match=message) as error:
        GivenScores.read(table)
    assert "\n" not in str(error.value)


def test_numbers_of_a_csv_are_numbers(tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("file,clip_score,language,empty\na.mp4,0.5,en,\n")
    given = GivenScores.read(table)
    assert given.numbers == ("clip_score",)
    assert given.scores(Path("a.mp4")) == {"clip_score": 0.5, "language": "en"}
    assert (
        read_recipe("mine", {"keep": {"clip_score": {"min": 1}}}, given.numbers).specs["clip_score"].meaning
    )
