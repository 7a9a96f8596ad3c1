"""Whether a clip of the ball world does what its caption says."""

import math
from dataclasses import replace

import pytest

from helpers.ball_clips import broken_clips, real_clips, score
from ovi_eval.ball.caption import NUMBERS, PITCHES, Told
from ovi_eval.ball.detectors import COLOURS
from ovi_lab.data.worlds import bouncing_ball

KEYS = [f"ball/caption_{what}" for what in ("colour", "pitch", "landings", "hits")]


def test_words_are_those_of_the_world() -> None:
    assert tuple(bouncing_ball.COLOURS) == COLOURS
    assert tuple(pitch for _, _, pitch in bouncing_ball.COLOURS.values()) == PITCHES
    assert bouncing_ball.NUMBERS == NUMBERS


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("a red ball bounces three times low drum", Told(0, 0, 3)),
        ("A Yellow ball bounces seven times piercing drum", Told(3, 3, 7)),
        ("a ball bounces two times drum", Told(-1, -1, 2)),
        ("high above a drum, many times", Told(-1, -1, -1)),  # "high" is not the drum's, and "many" no number
        ("times drum", Told(-1, -1, -1)),
        ("", Told(-1, -1, -1)),
    ],
)
def test_captions_are_read(caption: str, told: Told) -> None:
    assert Told.of(caption) == told


def test_each_value_is_held_against_its_own_words() -> None:
    """One clip, a caption each with one thing wrong: only that value is 0; what a caption leaves out has no value."""
    place = next(i for i, caption in enumerate(real_clips().captions) if caption.startswith("a red"))
    one = real_clips()[place : place + 1]
    count = NUMBERS[one.meta[0]["count"]]
    right = f"a red ball bounces {count} times low drum"
    assert one.captions == [right]
    expected = {
        right: (1, 1, 1, 1),
        right.replace("red", "blue"): (0, 1, 1, 1),
        right.replace("low", "high"): (1, 0, 1, 1),
        right.replace(count, "seven"): (1, 1, 0, 0),
        f"a ball bounces {count} times drum": (math.nan, math.nan, 1, 1),
        "a red ball": (1, math.nan, math.nan, math.nan),
    }
    for caption, values in expected.items():
        found = score(replace(one, captions=[caption]), names=["ball/caption"]).per_clip[0]
        for key, value in zip(KEYS, values, strict=True):
            assert found.get(key) == (None if math.isnan(value) else value), (caption, key)


def test_a_clip_without_a_ball_does_not_show_the_captions_colour() -> None:
    scored = score(broken_clips(), names=["ball/caption"])
    black = scored.per_clip[4]  # black, and only humming; its caption names the colour
    assert [black[key] for key in KEYS] == [0, 0, 0, 0]
    assert 4 not in scored.failed
