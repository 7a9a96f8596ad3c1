"""Edits between what was said and what should have been said, of which word and character error rates are made.

The least number of substitutions, deletions and insertions that turn the reference into the transcript (Levenshtein
1966), over the units of the reference: words between spaces for WER, characters, spaces included, for CER.
Insertions count, so a rate may pass 1. A clip whose reference has no unit has no rate.
"""

import unicodedata
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Edits(NamedTuple):
    """The least number of edits, and the number of reference units they are counted over."""

    edits: int
    units: int


def plain(text: str) -> str:
    """The text without what is not heard: NFKC, lower case (case folding), apostrophes dropped, every other
    character that is no letter, mark or digit taken as a space, and every run of white space as one space. Numbers
    are not spelled out.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    joined = "".join(char for char in folded if char not in "'\u2019\u2018\u02bc`")
    words = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in joined)
    return " ".join(words.split())


def edit_distance(reference: Sequence[Hashable], heard: Sequence[Hashable]) -> int:
    """The least number of substitutions, deletions and insertions that turn one sequence into the other."""
    numbers: dict[Hashable, int] = {}
    a, b = (
        np.array([numbers.setdefault(unit, len(numbers)) for unit in units], dtype=np.int64)
        for units in (reference, heard)
    )
    places = np.arange(len(b) + 1)
    row = places.copy()
    for unit in a:
        below = row + 1
        below[1:] = np.minimum(below[1:], row[:-1] + (b != unit))
        # Insertions run along the row: the cheapest start for each place, less the steps up to it.
        row = np.minimum.accumulate(below - places) + places
    return int(row[-1])


def word_edits(reference: str, heard: str) -> Edits:
    """Edits over the reference's words, which are what white space parts."""
    expected = reference.split()
    return Edits(edit_distance(expected, heard.split()), len(expected))


def character_edits(reference: str, heard: str) -> Edits:
    """Edits over the reference's characters, spaces included."""
    return Edits(edit_distance(reference, heard), len(reference))
