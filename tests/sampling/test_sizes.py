"""Sizes of clips: the released rules in all stored cases, and what cannot be made."""

from __future__ import annotations

from typing import Any

import pytest

from ovi_lab.errors import UserError
from ovi_lab.sampling.sizes import check_shape, parse_aspect, parse_size, size_for_image, snapped


def test_text_to_video_sizes_are_the_released(cases: dict[str, Any]) -> None:
    assert len(cases["t2v_snap"]) == 24
    for case in cases["t2v_snap"]:
        assert list(snapped(tuple(case["hw"]), case["area"])) == case["out"], case


def test_image_to_video_sizes_are_the_released(cases: dict[str, Any]) -> None:
    assert len(cases["i2v_best_hw"]) == 24
    for case in cases["i2v_best_hw"]:
        assert list(size_for_image(tuple(case["hw"]), case["area"], case["multiple"])) == case["out"], case


def test_sizes_of_first_frames_made_by_an_image_model_are_the_released(cases: dict[str, Any]) -> None:
    assert len(cases["flux_image_hw"]) == 12
    for case in cases["flux_image_hw"]:
        assert list(snapped(tuple(case["hw"]), 1024 * 1024, 16)) == case["out"], case


@pytest.mark.parametrize(
    ("aspect", "size"),
    [("16:9", (544, 960)), ("9:16", (960, 544)), ("1:1", (704, 704)), ("2.39:1", (480, 1120))],
)
def test_aspects_are_named_as_screens_are(aspect: str, size: tuple[int, int]) -> None:
    assert snapped(parse_aspect(aspect), 720 * 720) == size


def test_sizes_are_height_by_width() -> None:
    assert parse_size("704x1280") == (704, 1280)
    assert parse_size(" 704 X 1280 ") == (704, 1280)


@pytest.mark.parametrize(
    "text", ["704", "704x", "x", "0x10", "-3x5", "704x1280x3", "1e3x10", "999999x999999", ""]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="size=") as error:
        parse_size(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["16x9", "16:0", "0:9", "wide", "9999:1", ""])
def test_what_is_no_aspect_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="aspect="):
        parse_aspect(text)


def test_extreme_shapes_are_refused_and_the_longest_ones_made() -> None:
    with pytest.raises(UserError, match=r"4\.1 times as long as wide: at most 4 times"):
        check_shape((100, 410), "it")
    for size in ((100, 400), (400, 100)):
        check_shape(size, "it")
        for area in (518400, 921600, 4096):
            for found in (snapped(size, area), size_for_image(size, area)):
                assert min(found) >= 32
                assert 0.7 < found[0] * found[1] / area < 1.4
