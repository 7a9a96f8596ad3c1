"""Which clips are kept: bounds on scores, duplicates, and the split by source. Nothing here looks at media."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ovi_lab.data.build.clip import Scores
from ovi_lab.data.build.recipe import Bound, Recipe
from ovi_lab.data.build.steps.fingerprints import difference

BAND = 4
"""Hexadecimal digits of a fingerprint by which possible duplicates are looked up: clips that differ in at most a tenth
of 512 bits share one of 32 such groups with a probability of 0.998."""


@dataclass
class Decision:
    """What becomes of a clip."""

    dropped_by: list[str] = field(default_factory=list)
    """Scores outside of their bounds; `duplicate`, `caption`."""
    marks: list[str] = field(default_factory=list)
    """Scores outside of their bounds with which it is kept."""
    mend: dict[str, float] = field(default_factory=dict)
    """Scores that are put right, by their value."""
    duplicate_of: str | None = None

    @property
    def kept(self) -> bool:
        return not self.dropped_by


def applies(bound: Bound, scores: Scores) -> bool:
    """Whether a bound is for a clip of these scores."""
    for name, condition in bound.when.items():
        value = scores.get(name)
        if not isinstance(value, int | float) or not condition.holds(value):
            return False
    return True


def decide(scores: Scores, keep: Mapping[str, Bound]) -> Decision:
    """What the bounds make of one clip."""
    found = Decision()
    for name, bound in keep.items():
        if not applies(bound, scores):
            continue
        value = scores.get(name)
        if not isinstance(value, int | float):
            if bound.missing == "drop":
                found.dropped_by.append(name)
        elif not bound.holds(value):
            if bound.otherwise == "drop":
                found.dropped_by.append(name)
            elif bound.otherwise == "mark":
                found.marks.append(name)
            else:
                found.mend[name] = float(value)
    return found


def drop_duplicates(clips: Iterable[tuple[str, Scores, Decision]], recipe: Recipe) -> None:
    """Drop each kept clip whose fingerprint is near that of an earlier one that stays; the first of them stays.

    Args:
        clips: key, scores and decision of each clip, in the order of the sources.
        recipe: whose `duplicates` say how near, by fingerprint.
    """
    seen: dict[str, dict[tuple[int, str], list[tuple[str, str]]]] = {
        name: defaultdict(list) for name in recipe.duplicates
    }
    for key, scores, decision in clips:
        if not decision.kept:
            continue
        prints = {n: p for n in recipe.duplicates if isinstance(p := scores.get(n), str)}
        for name, own in prints.items():
            near = {pair for band in bands(own) for pair in seen[name].get(band, ())}
            twins = [other for other, its in sorted(near) if difference(own, its) <= recipe.duplicates[name]]
            if twins:
                decision.duplicate_of = twins[0]
                decision.dropped_by.append("duplicate")
                break
        else:
            for name, own in prints.items():
                for band in bands(own):
                    seen[name][band].append((key, own))


def bands(fingerprint: str) -> Iterable[tuple[int, str]]:
    """The groups that a fingerprint is in."""
    return ((at, fingerprint[at : at + BAND]) for at in range(0, len(fingerprint), BAND))


def split_of(source: str, val_share: float) -> str:
    """`val` for a share of the sources, `train` for the others: by the name alone, whatever other files there are."""
    place = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8]) / 2**64
    return "val" if place < val_share else "train"
