"""The form of a caption: the events in the order of time, speech in place as `<S>…<E>`, then one description of the
sound, `<AUDCAP>…<ENDAUDCAP>` or `Audio: …`, which the released models read (arXiv 2510.01284).
"""

from __future__ import annotations

import re

from ovi_lab.errors import UserError
from ovi_lab.text.prompts import check_tags, with_sound_as, without_sound

SOUND_TAGS = {"AUDCAP": "<AUDCAP>{}<ENDAUDCAP>", "Audio": "Audio: {}"}
"""The two released ways to write the description of the sound, by name."""
MAX_CHARACTERS = 4000
"""Of a caption: beyond any that umT5 reads whole in 512 tokens."""
FEWEST_WORDS = 3
_DESCRIPTION = re.compile(r"<AUDCAP>|Audio:")
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_REFUSAL = re.compile(
    r"\A(?:i['’]m sorry|i am sorry|sorry,|i can['’]?t\b|i cannot|i['’]m unable|i am unable|as an ai)", re.I
)


def has_sound_description(caption: str) -> bool:
    """Whether a caption describes the sound, in either form."""
    return _DESCRIPTION.search(caption) is not None


def checked_answer(answer: str, *, seen: bool = True, heard: bool = True) -> str:
    """A captioner's answer as a caption on one line: without a code fence or quotes around it.

    Args:
        seen: whether the clip has a picture, whose events must be told.
        heard: whether it has a sound, which must be described.

    Raises:
        UserError: it is not in the form, with what is wrong.
    """
    text = answer.strip()
    if (fenced := _FENCE.match(text)) is not None:
        text = fenced[1].strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and text.count('"') == 2:
        text = text[1:-1]
    text = " ".join(text.split())
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"it has {len(text)} characters; at most {MAX_CHARACTERS}")
    if _REFUSAL.match(text):
        raise UserError("it declines to describe the clip")
    check_tags(text)
    count = len(_DESCRIPTION.findall(text))
    if count > 1 or (heard and not count):
        raise UserError(f"it describes the sound {count} times, expected once, as <AUDCAP>…<ENDAUDCAP>")
    if text.partition("<ENDAUDCAP>")[2].strip():
        raise UserError("text follows the description of the sound, which comes last")
    if "Audio:" in text and not text.partition("Audio:")[2].strip():
        raise UserError("Audio: holds no words: write them, or leave it out")
    words = len(without_sound(text).split())
    if seen and words < FEWEST_WORDS:
        raise UserError(f"it tells what is seen in {words} words; at least {FEWEST_WORDS}")
    return text


def with_tag(caption: str, tag: str | None) -> str:
    """The caption with its sound as one of SOUND_TAGS has it; None: as it is."""
    return caption if tag is None else with_sound_as(caption, SOUND_TAGS[tag])
