"""A trend over an ordered setting, paired by seed: Page's test, and least-squares slopes with an interval over seeds.

Shapes: S seeds, K values of the setting, in ascending order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ovi_eval.stats.differences import Test
from ovi_eval.stats.intervals import Array, Interval, Seed, t_interval

Scale = Literal["number", "log", "rank"]
SCALES = get_args(Scale)
FEWEST_SEEDS, FEWEST_VALUES = 2, 3
"""What Page's test needs."""


@dataclass(frozen=True)
class Trend:
    """How a metric goes with a setting. `slope` is the mean over seeds of each seed's least-squares slope: per unit of
    the setting ("number"), per doubling ("log") or per step from one value to the next ("rank"). `rho` is the mean over
    seeds of Spearman's rank correlation.
    """

    slope: float
    interval: Interval | None
    test: Test
    rho: float
    by_seed: Mapping[Seed, float]
    """Slopes."""


def scaled(x_K: Sequence[float] | Array, scale: Scale) -> Array:
    """The setting's values as slopes are taken over them. Values of a "log" scale must be above 0."""
    x = np.asarray(x_K, dtype=np.float64)
    if scale == "rank":
        return np.arange(1.0, x.size + 1)
    return np.log2(x) if scale == "log" else x


def trend(seeds: Sequence[Seed], y_SK: Array, x_K: Sequence[float] | Array, scale: Scale = "number") -> Trend:
    """The trend of y over x, at least `FEWEST_SEEDS` seeds and `FEWEST_VALUES` values, none of them missing.

    The test is Page's L (Page 1963, "Ordered hypotheses for multiple treatments"), with seeds as blocks, two-sided:
    twice the smaller of both one-sided p values. It asks whether the ranks go with the setting in each seed; it does
    not show that every single step goes the same way. The interval is Student's t over the slopes of the seeds.
    """
    from scipy import stats

    at_K = scaled(x_K, scale) - scaled(x_K, scale).mean()
    slopes_S = (y_SK - y_SK.mean(axis=1, keepdims=True)) @ at_K / (at_K @ at_K)
    up = stats.page_trend_test(y_SK).pvalue
    down = stats.page_trend_test(-y_SK).pvalue
    flat_S = np.ptp(y_SK, axis=1) == 0  # where all values are equal no rank goes with anything
    rhos = [0.0 if flat else stats.spearmanr(at_K, y).statistic for flat, y in zip(flat_S, y_SK, strict=True)]
    return Trend(
        slope=float(slopes_S.mean()),
        interval=t_interval(slopes_S),
        test=Test(float(min(1.0, 2 * min(up, down))), "Page's trend test over seeds, two-sided", len(y_SK)),
        rho=float(np.mean(rhos)),
        by_seed={seed: float(slope) for seed, slope in zip(seeds, slopes_S, strict=True)},
    )
