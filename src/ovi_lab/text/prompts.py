"""Cleaning of a prompt's characters, its tags of speech and sound, and the prompt without them."""

from __future__ import annotations

import html
import re

from ovi_lab.errors import UserError

_SPEECH = re.compile(r"<S>.*?<E>", re.DOTALL)
_TAGGED_SOUND = re.compile(r"<AUDCAP>(.*?)<ENDAUDCAP>", re.DOTALL)
_LISTED_SOUND = re.compile(r"Audio:.*", re.DOTALL)
_CLOSED_BY = {"<S>": "<E>", "<AUDCAP>": "<ENDAUDCAP>"}
_TAG = re.compile(r"<(?:S|E|AUDCAP|ENDAUDCAP)>")


def clean_characters(prompt: str) -> str:
    """The prompt as the tokenizer reads it: repaired Unicode, no HTML entities, single spaces.

    Entities are undone twice, as captions from the web are often escaped twice.
    """
    import ftfy

    repaired = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return " ".join(repaired.split())


def without_sound(prompt: str) -> str:
    """The prompt without its speech (`<S>…<E>`) and without its description of the sound, in either form.

    `Audio: …` ends the prompt: all that follows it belongs to the sound.
    """
    for pattern in (_SPEECH, _TAGGED_SOUND, _LISTED_SOUND):
        prompt = pattern.sub("", prompt)
    return prompt.strip()


def sound_alone(prompt: str) -> str:
    """What `without_sound` leaves out: the speech, then the description of the sound, with their tags."""
    found: list[str] = []
    for pattern in (_SPEECH, _TAGGED_SOUND, _LISTED_SOUND):
        found += [match[0].strip() for match in pattern.finditer(prompt)]
        prompt = pattern.sub("", prompt)
    return " ".join(found)


def with_sound_as(prompt: str, tag: str) -> str:
    """The prompt with its description of the sound written as `tag` writes it, its `{}` being the description.

    One model reads `<AUDCAP>…<ENDAUDCAP>`, others `Audio: …`; a prompt in the model's own form, or without a
    description, stays as it is.
    """
    if "<AUDCAP>" in tag:
        before, listed, sound = prompt.partition("Audio:")
        if not listed or _TAGGED_SOUND.search(prompt):
            return prompt
        return before + tag.format(sound.strip())
    return _TAGGED_SOUND.sub(lambda tagged: tag.format(tagged[1].strip()), prompt)


def check_tags(prompt: str) -> None:
    """Refuses a prompt that says nothing, or whose tags are not closed, opened or in order.

    Raises:
        UserError: names the tag and quotes where it stands.
    """
    if not prompt.strip():
        raise UserError("the prompt is empty: say what is seen and heard")
    open_at: re.Match[str] | None = None
    for tag in _TAG.finditer(prompt):
        if tag[0] in _CLOSED_BY:
            if open_at is not None:
                raise UserError(
                    f"{_quoted(prompt, open_at)} is not closed by {_CLOSED_BY[open_at[0]]} before the next {tag[0]}"
                )
            open_at = tag
        elif open_at is None:
            opener = next(o for o, closer in _CLOSED_BY.items() if closer == tag[0])
            raise UserError(f"{_quoted(prompt, tag)} closes nothing: put {opener} before what belongs to it")
        elif _CLOSED_BY[open_at[0]] != tag[0]:
            raise UserError(
                f"{_quoted(prompt, open_at)} is closed by {tag[0]}, expected {_CLOSED_BY[open_at[0]]}"
            )
        else:
            if not prompt[open_at.end() : tag.start()].strip():
                raise UserError(f"{_quoted(prompt, open_at)} holds no words: write them, or leave it out")
            open_at = None
    if open_at is not None:
        raise UserError(f"{_quoted(prompt, open_at)} is never closed: put {_CLOSED_BY[open_at[0]]} after it")


def _quoted(prompt: str, tag: re.Match[str]) -> str:
    """The tag with a few characters after it, on one line."""
    following = " ".join(prompt[tag.end() : tag.end() + 24].split())
    return f"{tag[0]} in the prompt (at {tag[0]}{following}…)"
