"""The form of captions: what is taken, what is refused, and both released ways to write the sound."""

import pytest

from ovi_lab.errors import UserError
from ovi_lab.text.caption_form import checked_answer, with_tag

TAGGED = "A man waves. <S>Hello there.<E> He leaves. <AUDCAP>a warm low voice; birds<ENDAUDCAP>"
LISTED = "A man waves. <S>Hello there.<E> He leaves. Audio: a warm low voice; birds"


def test_both_forms_become_each_other() -> None:
    assert with_tag(TAGGED, "Audio") == LISTED
    assert with_tag(LISTED, "AUDCAP") == TAGGED
    assert with_tag(TAGGED, "AUDCAP") == TAGGED
    assert with_tag(TAGGED, None) == TAGGED


@pytest.mark.parametrize("answer", [TAGGED, f"```\n{TAGGED}\n```", f'"{TAGGED}"', TAGGED.replace(" ", "\n")])
def test_answers_in_the_form_are_one_line(answer: str) -> None:
    assert checked_answer(answer) == TAGGED


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "is empty"),
        ("A man waves at us.", "describes the sound 0 times"),
        (f"{TAGGED} Audio: wind", "describes the sound 2 times"),
        (f"{TAGGED} Then he leaves.", "text follows the description of the sound"),
        ("A man <S>waves <AUDCAP>a<ENDAUDCAP>", "<S>waves … in the prompt|is not closed by <E>"),
        ("Waves. <AUDCAP>voice<ENDAUDCAP>", "tells what is seen in 1 words; at least 3"),
        ("A man waves now. Audio: ", "Audio: holds no words"),
        ("I'm sorry, but I cannot hear it. Audio: none", "declines"),
        ("word " * 1000, "has 4999 characters; at most 4000"),
    ],
)
def test_other_answers_are_refused(answer: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_answer(answer)


def test_what_a_clip_lacks_is_not_asked_for() -> None:
    assert checked_answer("A silent man waves.", heard=False) == "A silent man waves."
    assert checked_answer("<S>Yes.<E> <AUDCAP>a voice<ENDAUDCAP>", seen=False)
