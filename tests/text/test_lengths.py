"""Texts that are too long: refused, or cut where it is said, and never without a word."""

from __future__ import annotations

import logging

import pytest
import torch

from ovi_lab.errors import UserError
from ovi_lab.text import LearnedText
from ovi_lab.text.lengths import CutTexts, without_middle


def words(text: str) -> int:
    return len(text.split()) + 1


def test_the_beginning_and_the_end_stay() -> None:
    text = " ".join(map(str, range(100)))
    assert without_middle(text, 7, words) == "0 1 2 97 98 99"
    assert without_middle(text, 8, words) == "0 1 2 3 97 98 99"
    assert without_middle(text, 1, words) == ""
    assert without_middle("a\nb  c", 4, words) == "a\nb  c"


def test_texts_without_spaces_are_cut_too() -> None:
    rain = "雨が降る" * 300
    cut = without_middle(rain, 100, len)
    assert 80 < len(cut) <= 100
    assert rain.startswith(cut[:40])
    assert rain.endswith(cut[-40:])


def test_what_fits_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    for choice in ("refuse", "cut_end", "cut_middle"):
        assert CutTexts(4, words, choice, "o=")("a  b c") == "a  b c"
    assert not caplog.records


def test_what_is_too_long_is_refused_or_told(caplog: pytest.LogCaptureFixture) -> None:
    text = "one two three four five <S>six<E>"
    with pytest.raises(UserError) as error:
        CutTexts(5, words, "refuse", "long_prompts=")(text)
    assert "has 7 tokens and 5 are read: its last 2" in str(error.value)
    assert "long_prompts=cut_middle or cut_end" in str(error.value)
    with caplog.at_level(logging.WARNING):
        assert CutTexts(5, words, "cut_middle", "o=")(text) == "one two five <S>six<E>"
        fit = CutTexts(5, words, "cut_end", "o=")
        assert fit(text) == fit(text) == text  # its reader cuts it; told once
    first, second = (record.getMessage() for record in caplog.records)
    assert "has 7 tokens and 5 are read: 2 are lost from its middle (o=cut_middle)" in first
    assert "2 are lost from its end, where speech and sound stand (o=cut_end)" in second
    with pytest.raises(
        UserError, match=r"text\.too_long is 'cut'; expected one of refuse, cut_end, cut_middle"
    ):
        CutTexts(5, words, "cut", "text.too_long=")


def test_a_hundred_long_texts_are_not_a_hundred_lines(caplog: pytest.LogCaptureFixture) -> None:
    fit = CutTexts(2, words, "cut_middle", "o=")
    with caplog.at_level(logging.WARNING):
        for number in range(100):
            fit(f"text {number}")
    assert len(caplog.records) == 11


def test_the_learned_encoder_tells_too(caplog: pytest.LogCaptureFixture) -> None:
    captions = ["a red ball bounces low drum", "a red ball bounces high bell"]
    ends, middles = (LearnedText(8, max_words=4, too_long=choice) for choice in ("cut_end", "cut_middle"))
    with caplog.at_level(logging.WARNING):
        first, second = ends(captions)
        assert torch.equal(first, second)
        assert len(caplog.records) == 2
    first, second = middles(captions)
    assert first.shape == (4, 8)
    assert not torch.equal(first, second)
    assert torch.equal(middles(["a red low drum"])[0], first)
    with pytest.raises(UserError, match=r"text\.too_long=cut_middle"):
        LearnedText(8, max_words=4, too_long="refuse")(captions)
