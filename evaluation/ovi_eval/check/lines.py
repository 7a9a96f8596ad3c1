"""Compares what was computed here with what a reference gave, and keeps both.

Of many numbers the one that is worst off stands for all: the one whose difference takes the largest share of
what its tolerance allows. A difference is allowed up to atol + rtol * |expected|, as numpy and torch have it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

RTOL = 1e-4
"""What the goldens' README names for networks with generated weights, whose activations are large."""

Numbers = float | Sequence[Any] | np.ndarray | Tensor


@dataclass(frozen=True)
class Line:
    """One compared quantity.

    `expected` and `got` are the numbers themselves or, of `count` numbers, those that are worst off;
    `share` is how much of the tolerance their difference takes (1: all of it), None where they must be equal;
    `why` says where a tolerance comes from that is not the README's; `away` is the largest difference of all.
    """

    quantity: str
    expected: float | str
    got: float | str
    tolerance: str
    passed: bool
    count: int = 1
    share: float | None = None
    why: str = ""
    away: float = 0.0


def close(
    quantity: str,
    got: Numbers,
    expected: Numbers,
    *,
    rtol: float = RTOL,
    atol: float = 0.0,
    why: str = "",
) -> Line:
    """Whether each number is as near to the expected one as |got - expected| <= atol + rtol * |expected|."""
    found, wanted = _array(got), _array(expected)
    parts = [f"{part:.2g} {kind}" for part, kind in ((rtol, "rel"), (atol, "abs")) if part]
    tolerance = " + ".join(parts) or "equal"
    if found.shape != wanted.shape:
        shapes = (f"{list(wanted.shape)} numbers", f"{list(found.shape)} numbers")
        return Line(quantity, *shapes, tolerance, False, max(1, wanted.size), why=why)
    if not wanted.size:
        return Line(quantity, "none", "none", tolerance, True, 0, why=why)
    with np.errstate(invalid="ignore", divide="ignore"):
        away, allowed = np.abs(found - wanted), atol + rtol * np.abs(wanted)
        shares = np.where(away == 0, 0.0, away / allowed)
    # What is not a number is as far off as can be.
    shares = np.where(np.isfinite(shares) & np.isfinite(found), shares, math.inf).ravel()
    worst = int(shares.argmax())
    return Line(
        quantity,
        float(wanted.ravel()[worst]),
        float(found.ravel()[worst]),
        tolerance,
        bool(shares[worst] <= 1),
        wanted.size,
        float(shares[worst]),
        why,
        float(away.max()),
    )


def same(quantity: str, got: Any, expected: Any, why: str = "") -> Line:
    """Whether both are equal: counts, digests, texts, lists of them."""
    return Line(quantity, _shown(expected), _shown(got), "equal", bool(got == expected), why=why)


def members(quantity: str, got: Iterable[Any], expected: Iterable[Any]) -> Line:
    """Whether two collections hold the same, in any order; shown is how many of each are in both."""
    found, wanted = set(got), set(expected)
    shown = (f"{len(wanted)} of {len(wanted)}", f"{len(found & wanted)} of {len(found)}")
    return Line(quantity, *shown, "equal", found == wanted, len(wanted))


def at_most(quantity: str, got: float, bound: float, expected: float, why: str) -> Line:
    """Whether a number that need not be met stays below `bound`; `expected` is the reference's own."""
    found = float(got)
    passed = bool(found <= bound)
    share = found / bound if math.isfinite(found) else math.inf
    return Line(quantity, float(expected), found, f"at most {bound:.3g}", passed, 1, share, why)


def _array(values: Numbers) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def _shown(value: Any) -> float | str:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
