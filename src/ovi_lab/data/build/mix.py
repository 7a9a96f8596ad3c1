"""Shares of kinds among the kept clips: how many show no face, one or several, how many have speech."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

SPEECH = 0.1
"""Share of windows with speech from which on a clip has speech."""


@dataclass(frozen=True)
class Mix:
    """Kinds of clips by one score."""

    score: str
    kinds: tuple[str, ...]
    kind_of: Callable[[float], str]


MIXES = {
    "faces": Mix(
        "faces",
        ("none", "one", "several"),
        lambda faces: "none" if faces < 0.5 else "one" if faces < 1.5 else "several",
    ),
    "speech": Mix(
        "speech_share", ("with", "without"), lambda share: "with" if share >= SPEECH else "without"
    ),
}
"""By their names in a recipe."""


def left_out(clips: Iterable[tuple[str, float]], mix: Mix, most: Mapping[str, float]) -> set[str]:
    """The keys of clips that are too many of their kind, as few as can be.

    Which ones of a kind is drawn by the clips' keys, so that it does not depend on their order.

    Args:
        clips: key and score of each.
        most: the largest share of a kind; a kind without one may have any. Where the kinds that there are could not
            make up a whole, their shares are taken in proportion.
    """
    kinds: dict[str, list[str]] = {}
    for key, score in clips:
        kinds.setdefault(mix.kind_of(score), []).append(key)
    quotas = _quotas({kind: len(keys) for kind, keys in kinds.items()}, most)
    found: set[str] = set()
    for kind, keys in kinds.items():
        drawn = sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())
        found |= set(drawn[quotas[kind] :])
    return found


def _quotas(counts: Mapping[str, int], most: Mapping[str, float]) -> dict[str, int]:
    """How many of each kind stay: the largest number of clips of which no kind has more than its share."""
    shares = {kind: most.get(kind, 1.0) for kind in counts}
    whole = sum(shares.values())
    if not whole:
        return dict.fromkeys(counts, 0)
    if whole < 1:
        shares = {kind: share / whole for kind, share in shares.items()}
    # The largest T = sum of min(count, share T): at T the capped kinds hold their shares, the others all they have.
    total = float(sum(counts.values()))
    for _ in range(len(counts) + 1):
        capped = [kind for kind in counts if counts[kind] > shares[kind] * total + 1e-9]
        free = 1 - sum(shares[kind] for kind in capped)
        if not capped or free <= 1e-9:
            break
        total = sum(count for kind, count in counts.items() if kind not in capped) / free
    return {kind: min(count, round(shares[kind] * total)) for kind, count in counts.items()}
