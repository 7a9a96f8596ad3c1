"""Which clips are kept: bounds on scores, duplicates, and the split by source. Nothing here looks at media."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ovi_lab.data.build.clip import Scores
from ovi_lab.data.build.mix import MIXES, left_out
from ovi_lab.data.build.recipe import Bound, Recipe
from ovi_lab.data.build.steps.fingerprints import difference

BAND = 4
"""Hexadecimal digits of a fingerprint by which possible duplicates are looked up: clips that differ in at most a tenth
of 512 bits share one of 32 such groups with a probability of 0.998."""


@dataclass
class Decision:
    """What becomes of a clip."""

    dropped_by: list[str] = field(default_factory=list)
    """Scores outside of their bounds; `duplicate`, `mix of faces`, `caption`."""
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
        value = _value_for(condition, scores.get(name))
        if value is None or not condition.holds(value):
            return False
    return True


def _value_for(bound: Bound, value: float | str | None) -> float | str | None:
    """The value where it is of the kind that the bound is about, a text or a number."""
    return value if isinstance(value, str if bound.any_of else int | float) else None


def decide(scores: Scores, keep: Mapping[str, Bound]) -> Decision:
    """What the bounds make of one clip."""
    found = Decision()
    for name, bound in keep.items():
        if not applies(bound, scores):
            continue
        value = _value_for(bound, scores.get(name))
        if value is None:
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


def keep_mix(clips: Iterable[tuple[str, Scores, Decision]], mix: Mapping[str, Mapping[str, float]]) -> None:
    """Drop kept clips of kinds of which there are more than the mix has them; see `ovi_lab.data.build.mix`."""
    clips = list(clips)
    for name, most in mix.items():
        score = MIXES[name].score
        kept = {
            key: float(x) for key, own, d in clips if d.kept and isinstance(x := own.get(score), int | float)
        }
        surplus = left_out(kept.items(), MIXES[name], most)
        for key, _, decision in clips:
            if key in surplus:
                decision.dropped_by.append(f"mix of {name}")


def bands(fingerprint: str) -> Iterable[tuple[int, str]]:
    """The groups that a fingerprint is in."""
    return ((at, fingerprint[at : at + BAND]) for at in range(0, len(fingerprint), BAND))


def split_of(source: str, val_share: float) -> str:
    """`val` for a share of the sources, `train` for the others: by the name alone, whatever other files there are."""
    place = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8]) / 2**64
    return "val" if place < val_share else "train"
