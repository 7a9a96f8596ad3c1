"""Prompts before they are read."""

import json

import pytest

from ovi_lab.text.prompts import clean_characters, without_sound


def test_prompts_without_sound_are_the_references(goldens) -> None:
    cases = json.loads((goldens / "resolution_prompts.json").read_text())["clean_text"]
    assert len(cases) == 4
    for case in cases:
        assert without_sound(case["prompt"]) == case["out"]


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  two\t\n spaces  ", "two spaces"),
        ("rock &amp;amp; roll &lt;S&gt;", "rock & roll <S>"),
        ("\u201cquoted\u201d", '"quoted"'),
        ("caf\u00c3\u00a9", "caf\u00e9"),
        ("<S>Hello.<E> <AUDCAP>rain<ENDAUDCAP>", "<S>Hello.<E> <AUDCAP>rain<ENDAUDCAP>"),
    ],
)
def test_characters_are_mended(prompt, cleaned) -> None:
    assert clean_characters(prompt) == cleaned
