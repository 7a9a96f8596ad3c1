"""Shares of kinds among the kept clips."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from helpers.small_videos import RECIPE
from ovi_lab.data.build.decide import Decision, decide, keep_mix
from ovi_lab.data.build.mix import MIXES, left_out
from ovi_lab.data.build.recipe import Bound, read_recipe
from ovi_lab.data.build.report.facts import ClipFacts, funnel
from ovi_lab.errors import UserError

FACES = MIXES["faces"]


def kept(counts: dict[str, int], most: dict[str, float]) -> dict[str, int]:
    faces = {"none": 0.0, "one": 1.0, "several": 3.0}
    clips = [(f"{kind}{n}", faces[kind]) for kind, count in counts.items() for n in range(count)]
    gone = left_out(clips, FACES, most)
    assert gone == left_out(clips[::-1], FACES, most)
    return {kind: sum(key not in gone for key, _ in clips if key.startswith(kind)) for kind in counts}


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        # shares that make a whole: as many clips as the scarcest kind allows
        ((60, 25, 30), (0.3, 0.5, 0.2), (15, 25, 10)),
        ((30, 50, 20), (0.3, 0.5, 0.2), (30, 50, 20)),
        # a kind that is not there: the others in proportion
        ((60, 25, 0), (0.3, 0.5, 0.2), (15, 25, 0)),
        # only one kind is limited, and stays as it is below its limit
        ((90, 30, 30), (0.25, 1.0, 1.0), (20, 30, 30)),
        ((10, 30, 30), (0.25, 1.0, 1.0), (10, 30, 30)),
        ((10, 30, 30), (0.0, 1.0, 1.0), (0, 30, 30)),
        ((10, 0, 0), (0.2, 0.5, 0.3), (10, 0, 0)),
        ((10, 0, 0), (0.0, 0.5, 0.5), (0, 0, 0)),
        ((0, 0, 0), (0.3, 0.5, 0.2), (0, 0, 0)),
    ],
)
def test_shares(counts: Any, most: Any, expected: Any) -> None:
    names = FACES.kinds
    found = kept(dict(zip(names, counts, strict=True)), dict(zip(names, most, strict=True)))
    assert tuple(found.values()) == expected


def test_clips_that_are_dropped_already_or_have_no_score_do_not_count() -> None:
    rows = [(f"a{n}", {"faces": 1.0}, Decision()) for n in range(4)]
    rows += [(f"b{n}", {"faces": 0.0}, Decision()) for n in range(8)]
    rows += [("c", {"faces": 0.0}, Decision(["motion"])), ("d", {"faces": None}, Decision())]
    keep_mix(rows, {"faces": {"none": 0.5}})
    assert sum(d.kept for key, _, d in rows if key[0] == "b") == 4
    assert all(d.kept for key, _, d in rows if key[0] in "ad")
    assert rows[-2][2].dropped_by == ["motion"]
    assert {name for _, _, d in rows for name in d.dropped_by} == {"motion", "mix of faces"}


def test_texts_are_bounded_by_the_values_that_are_taken() -> None:
    keep = {
        "language": Bound(any_of=("en", "de"), when={"speech_share": Bound(min=0.1)}),
        "motion": Bound(min=0.1, when={"language": Bound(any_of=("en",))}),
    }
    assert decide({"language": "fr", "speech_share": 0.5, "motion": 0.0}, keep).dropped_by == ["language"]
    assert decide({"language": "en", "speech_share": 0.5, "motion": 0.0}, keep).dropped_by == ["motion"]
    assert decide({"language": "fr", "speech_share": 0.0, "motion": 0.0}, keep).kept
    assert decide({"language": None, "speech_share": 0.5}, keep).kept


def test_the_report_has_a_line_for_each_mix_and_texts_in_words() -> None:
    plain = {**RECIPE, "steps": ["faces", "language"], "duplicates": {}, "mix": {"faces": {"none": 0.3}}}
    plain["keep"] = {"language": {"any_of": ["en", "de"]}}
    recipe = read_recipe("mine", plain)
    folder: Any = SimpleNamespace(recipe=recipe)
    place: Any = ("", 0.0, None)
    clips = [
        ClipFacts("a", *place, [], {"seconds": 2.0}, {"language": "en"}, 0, None),
        ClipFacts("b", *place, ["mix of faces"], {"seconds": 3.0}, {"language": "de"}, 0, None),
        ClipFacts("c", *place, ["language"], {"seconds": 4.0}, {"language": "fr"}, 0, None),
    ]
    stages = funnel(folder, clips)
    assert [(stage.name, stage.rule, stage.left, stage.seconds) for stage in stages[1:]] == [
        ("language", "en or de", 2, 5.0),
        ("mix of faces", "at most 30% none", 1, 2.0),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": {"faces": {"none": 0.5}}}, "mix.faces: faces is unknown; expected one of"),
        ({"mix": {"faces": {"two": 0.5}}}, "mix.faces: two is unknown; expected one of none, one, several"),
        ({"mix": {"faces": {"one": 2}}}, "mix.faces.one is 2; expected a number from 0 to 1"),
        ({"mix": {"faces": 0.5}}, "mix.faces is 0.5; expected a mapping of kinds to shares"),
        ({"mix": 3}, "mix is 3; expected a mapping of faces, speech"),
        ({"steps": ["language"], "keep": {"language": {"min": 1}}}, "keep.language takes any_of"),
        (
            {"keep": {"picture_print": {"min": 1}}},
            "keep.picture_print is a fingerprint; name it under duplicates",
        ),
        ({"keep": {"motion": {"any_of": ["a"]}}}, "keep.motion takes min or max"),
        ({"steps": ["language"], "keep": {"language": {"any_of": "en"}}}, "any_of is 'en'; expected a list"),
        ({"steps": {"aesthetics": {"head": "x"}}}, "head is 'x'; expected one of linear, mlp"),
        ({"steps": {"text": {"frames": 0}}}, "step text: frames is 0; expected a whole number from 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_recipe("mine", {**RECIPE, "keep": {}, "duplicates": {}, **change})
    assert "\n" not in str(error.value)
