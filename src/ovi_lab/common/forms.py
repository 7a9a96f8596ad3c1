"""The forms of settings in a few words: `whole>=1`, `number 0..1 | null`, `skip | raise`, `list of text`.

A form is alternatives with `|` between them:

    null, yes/no            nothing; true or false
    whole, number           with `>=A`, `>A`, `A..B` or `A..<B`; whole numbers fit 64 bits, numbers are finite
    text, name, any text    some text on one line; a relative path without ..; text of any kind, also none
    list of FORM, mapping   values in brackets (`list of 2 FORM`: so many); keys with values
    any                     whatever its reader takes
    other words             these very words
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Any

_LARGEST = 2**63 - 1
_NUMBER = re.compile(r"(whole|number)(?:\s*(>=|>)\s*(\S+)|\s+(\S+)\.\.(<?)(\S+))?")
_LIST = re.compile(r"list of (?:(\d+) )?(.+)")


@dataclass(frozen=True)
class Form:
    """One of the alternatives: its check and its name."""

    fits: Callable[[Any], bool]
    words: str


def misfit(value: Any, form: str) -> str | None:
    """The expected values in words, where `value` is not of the form; None where it is."""
    forms = _parsed(form)
    if any(one.fits(value) for one in forms):
        return None
    words = [one.words for one in forms]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


@cache
def _parsed(form: str) -> tuple[Form, ...]:
    return tuple(_one(part.strip()) for part in form.split("|"))


def _one(part: str) -> Form:
    if part in _PLAIN:
        return _PLAIN[part]
    if match := _LIST.fullmatch(part):
        count, of = match.groups()
        inner = _one(of)
        example = next((e for kind, e in _EXAMPLES.items() if of.startswith(kind)), "[a, b]")
        return Form(
            lambda value: (
                _is_list(value) and count in (None, str(len(value))) and all(map(inner.fits, value))
            ),
            f"a list of {f'{count}: ' if count else ''}{inner.words}, such as {example}",
        )
    match = _NUMBER.fullmatch(part)
    if match:
        return _number(*match.groups())
    return Form(lambda value: value == part and isinstance(value, str), part)


def _number(
    kind: str, sign: str | None, least: str | None, low: str | None, below: str | None, high: str | None
) -> Form:
    whole = kind == "whole"
    lowest = float(least if least is not None else low if low is not None else "-inf")
    highest = float(high) if high is not None else math.inf

    def fits(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            return False
        if not -_LARGEST <= value <= _LARGEST if isinstance(value, int) else not math.isfinite(value):
            return False
        over = value > lowest if sign == ">" else value >= lowest
        return over and (value < highest if below else value <= highest)

    words = "a whole number" if whole else "a number"
    if sign is not None:
        words += f" {'of at least' if sign == '>=' else 'above'} {least}"
    elif low is not None:
        words += f" from {low} to {'below ' if below else ''}{high}"
    return Form(fits, words)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_text(value: Any) -> bool:
    # 2026 is a good name and a good prompt, and YAML makes a number of it
    if isinstance(value, int | float) and not isinstance(value, bool):
        return True
    return isinstance(value, str) and bool(value.strip()) and not any(map(_is_control, value))


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def _is_name(value: Any) -> bool:
    if not _is_text(value):
        return False
    path = PurePath(str(value))
    return not path.is_absolute() and ".." not in path.parts and len(str(value).encode()) <= 200


_PLAIN = {
    "any": Form(lambda value: True, "anything"),
    "null": Form(lambda value: value is None, "null"),
    "yes/no": Form(lambda value: isinstance(value, bool), "true or false"),
    "text": Form(_is_text, "text on one line"),
    "any text": Form(lambda value: isinstance(value, str), "text"),
    "name": Form(_is_name, "a name without .. and control characters"),
    "mapping": Form(lambda value: isinstance(value, Mapping), "keys with values"),
}
_EXAMPLES = {"whole": "[1, 2]", "number": "[0.9, 0.95]"}
