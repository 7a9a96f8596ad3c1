"""Equivalence by two one-sided tests, and what a number of seeds could have shown: paired t over seeds.

Everything here is of the differences of two arms, one a seed, taken as normal. sd is their standard deviation over n
seeds (divided by n - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy import special

from ovi_eval.stats.differences import Test
from ovi_eval.stats.intervals import Array, Interval

ALPHA, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Equivalence:
    """`test.p` is the larger of the two one-sided p values; `interval` has the level 1 - 2 alpha = 90 %, and lies
    within the margin exactly where p < 0.05.
    """

    interval: Interval
    test: Test


def equivalence(differences: Sequence[float] | Array, margin: float) -> Equivalence:
    """Two one-sided paired t tests of a mean difference of -margin or less, and of margin or more (Schuirmann 1987).

    At least two differences, one a seed.
    """
    d = np.asarray(differences, dtype=np.float64)
    error, freedom, mean = float(d.std(ddof=1) / math.sqrt(d.size)), d.size - 1, float(d.mean())
    p = float(abs(mean) >= margin)
    if error > 0:
        p = float(special.stdtr(freedom, (abs(mean) - margin) / error))
    half = float(special.stdtrit(freedom, 1 - ALPHA)) * error
    interval = Interval(mean - half, mean + half, "t over seeds, 90 %", int(d.size), 0.9)
    return Equivalence(interval, Test(p, "two one-sided paired t tests over seeds", int(d.size)))


def detectable_difference(sd: float, n: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true difference that a two-sided paired t test over n >= 2 seeds finds with this power."""
    return sd / math.sqrt(n) * _in_errors("difference", n, alpha / 2, power)


def detectable_margin(
    sd: float, n: int, alpha: float = ALPHA, power: float = POWER, *, one_side: bool = False
) -> float:
    """The smallest margin within which equivalence would have been shown with this power, were there no difference.

    `one_side`: no more than the margin worse, whatever better (non-inferiority, one test at alpha).
    """
    return sd / math.sqrt(n) * _in_errors("no_worse" if one_side else "margin", n, alpha, power)


@cache
def _in_errors(
    kind: Literal["difference", "margin", "no_worse"], n: int, alpha: float, power: float
) -> float:
    """What is shown with this power, in standard errors of the mean; each t test is at `alpha` on its side.

    The chance of each test given the standard error that the seeds show is a normal one. It is averaged over that,
    which in units of the true one is a chi deviate over the root of its n - 1 degrees of freedom.
    """
    from scipy import optimize, stats

    freedom = n - 1
    critical = float(special.stdtrit(freedom, 1 - alpha))
    nodes, weights = np.polynomial.legendre.leggauss(800)
    chi = (nodes + 1) / 2 * float(stats.chi.isf(1e-14, freedom))
    weights = weights * stats.chi.pdf(chi, freedom)
    weights /= weights.sum()
    half = critical * chi / math.sqrt(freedom)
    chances: dict[str, Callable[[float], Array]] = {
        "difference": lambda size: special.ndtr(size - half) + special.ndtr(-size - half),
        "margin": lambda size: np.maximum(0.0, 2 * special.ndtr(size - half) - 1),
        "no_worse": lambda size: special.ndtr(size - half),
    }

    def chance(size: float) -> float:
        return float(weights @ chances[kind](size))

    high = 1.0
    while chance(high) < power:
        high *= 2
    return float(optimize.brentq(lambda size: chance(size) - power, 0.0, high, xtol=1e-9))
