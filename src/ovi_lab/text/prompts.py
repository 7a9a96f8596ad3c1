"""What is done to a prompt's characters before anything reads it, and what of it describes no sound."""

from __future__ import annotations

import html
import re

_SPEECH = re.compile(r"<S>.*?<E>", re.DOTALL)
_TAGGED_SOUND = re.compile(r"<AUDCAP>.*?<ENDAUDCAP>", re.DOTALL)
_LISTED_SOUND = re.compile(r"Audio:.*", re.DOTALL)


def clean_characters(prompt: str) -> str:
    """The prompt as the tokenizer is to see it: mended Unicode, no HTML entities, single spaces.

    Entities are undone twice, as captions from the web are often escaped twice.
    """
    import ftfy

    mended = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return " ".join(mended.split())


def without_sound(prompt: str) -> str:
    """The prompt without its speech (`<S>…<E>`) and without its description of the sound, in either form.

    `Audio: …` ends the prompt: all that follows it belongs to the sound.
    """
    for pattern in (_SPEECH, _TAGGED_SOUND, _LISTED_SOUND):
        prompt = pattern.sub("", prompt)
    return prompt.strip()
