"""Word and character error rate of what was said against what should have been said.

The rate of a clip is the least number of substitutions, deletions and insertions that turn the reference
into the transcript (Levenshtein 1966), over the units of the reference: words between spaces for WER,
characters, spaces included, for CER. Insertions count, so a rate may pass 1.

Over clips there are two numbers that are not the same and are both reported: `pooled`, all edits over all
reference units, which long clips weigh more in, and `mean`, of the rates clip by clip. A clip whose
reference has no word has no rate: it is missing in both, never 0.

Transcripts come from the caller: a rate also depends on the recogniser, which is named beside it.
"""

import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ovi_eval.errors import UserError

VERSION = "1"


@dataclass(frozen=True)
class Edits:
    """The least number of edits, and the number of reference units they are counted over."""

    edits: int
    units: int

    @property
    def rate(self) -> float | None:
        """Edits over units; None where the reference is empty."""
        return self.edits / self.units if self.units else None


@dataclass(frozen=True)
class ErrorRate:
    """Error rates of a set of clips in one unit.

    `per_clip` has each clip's rate in their order, None where its reference is empty; `n` clips have one;
    `pooled` and `mean` are None where none has. `variant` names the unit and the normalisation, which part
    values that must not be compared.
    """

    pooled: float | None
    mean: float | None
    per_clip: tuple[float | None, ...]
    n: int
    variant: str

    @property
    def coverage(self) -> float:
        """The share of clips that have a rate."""
        return self.n / len(self.per_clip)


def spaced(text: str) -> str:
    """The text as it stands, every run of white space as one space and none at the ends."""
    return " ".join(text.split())


def plain(text: str) -> str:
    """The text without what is not heard: NFKC, lower case (case folding), apostrophes dropped, every other
    character that is no letter, mark or digit taken as a space, then as `spaced`. Numbers are not spelled
    out.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    joined = "".join(char for char in folded if char not in "'\u2019\u2018\u02bc`")
    return spaced("".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in joined))


NORMALISATIONS: dict[str, Callable[[str], str]] = {"spaced": spaced, "plain": plain}


def edit_distance(reference: Sequence[Hashable], heard: Sequence[Hashable]) -> int:
    """The least number of substitutions, deletions and insertions that turn one sequence into the other."""
    numbers: dict[Hashable, int] = {}
    a = np.array([numbers.setdefault(unit, len(numbers)) for unit in reference], dtype=np.int64)
    b = np.array([numbers.setdefault(unit, len(numbers)) for unit in heard], dtype=np.int64)
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
    wanted = reference.split()
    return Edits(edit_distance(wanted, heard.split()), len(wanted))


def character_edits(reference: str, heard: str) -> Edits:
    """Edits over the reference's characters, spaces included."""
    return Edits(edit_distance(reference, heard), len(reference))


def word_error_rate(references: Sequence[str], heard: Sequence[str], normalise: str = "plain") -> ErrorRate:
    """WER of transcripts `heard` against `references`, clip by clip and over all.

    `normalise`: "plain" compares what is heard (see `plain`), "spaced" the texts as they stand but for
    white space. Raises UserError for no clips, unequal counts, what is no text, or an unknown normalisation.
    """
    return _rates(references, heard, normalise, "word", word_edits)


def character_error_rate(
    references: Sequence[str], heard: Sequence[str], normalise: str = "plain"
) -> ErrorRate:
    """CER of transcripts `heard` against `references`; arguments and errors as `word_error_rate`."""
    return _rates(references, heard, normalise, "character", character_edits)


def _rates(
    references: Sequence[str],
    heard: Sequence[str],
    normalise: str,
    unit: str,
    count: Callable[[str, str], Edits],
) -> ErrorRate:
    if isinstance(references, str) or isinstance(heard, str):
        raise UserError("error rates take a list of references and one of transcripts, got a single text")
    if not references or len(references) != len(heard):
        raise UserError(
            f"error rates need one transcript for each reference, got {len(references)} references and "
            f"{len(heard)} transcripts; give an empty text where nothing was heard"
        )
    if normalise not in NORMALISATIONS:
        raise UserError(f"normalisation {normalise!r} is unknown; there are {', '.join(NORMALISATIONS)}")
    for what, texts in (("reference", references), ("transcript", heard)):
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"{what} {place} should be text, got {text!r}; use an empty text for silence")
    tidy = NORMALISATIONS[normalise]
    counted = [count(tidy(a), tidy(b)) for a, b in zip(references, heard, strict=True)]
    rates = tuple(each.rate for each in counted)
    have = [each for each in counted if each.units]
    units = sum(each.units for each in have)
    return ErrorRate(
        pooled=sum(each.edits for each in have) / units if units else None,
        mean=sum(each.edits / each.units for each in have) / len(have) if have else None,
        per_clip=rates,
        n=len(have),
        variant=f"{unit}, {normalise}",
    )
