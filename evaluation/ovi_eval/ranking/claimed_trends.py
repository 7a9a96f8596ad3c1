"""Claims of a trend: a metric rises or falls with the number that a sweep varies. And what a study could have shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ovi_eval.common.number_format import format_number, format_p
from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError
from ovi_eval.ranking.columns import Column
from ovi_eval.ranking.sweep import Sweep, complete
from ovi_eval.ranking.table import Row
from ovi_eval.stats.differences import Test
from ovi_eval.stats.power import detectable_difference, detectable_margin
from ovi_eval.stats.trends import FEWEST_SEEDS, FEWEST_VALUES, SCALES, Scale, Trend, trend

ALPHA = 0.05
TRENDS = {"increasing": 1, "decreasing": -1}
UNITS = {"number": "unit", "log": "doubling", "rank": "step"}
"""What a slope is per, by scale."""


@dataclass(frozen=True)
class Power:
    """What `seeds` whose paired values spread by `sd` show in 80 % of studies: a difference or slope of `detectable`,
    or that there is none within it (`kind`).
    """

    seeds: int
    sd: float
    detectable: float
    kind: str

    def sentence(self) -> str:
        """For a reader."""
        spread = f"{self.seeds} seeds with a standard deviation of {format_number(self.sd)} between them"
        size = format_number(self.detectable)
        if self.kind == "margin":
            return f"Power: {spread} show equivalence within {size} in 80 % of studies, if there is no difference."
        return f"Power: {spread} show a {self.kind} of {size} in 80 % of studies, by a paired t test at p < 0.05."


def power_of(by_seed: Sequence[float], relation: str = "better") -> Power | None:
    """What this many seeds with the spread seen could have shown, by a paired t test over seeds; None of fewer than
    two.

    `relation`: of `claims.RELATIONS`, or "trend" where the values are slopes.
    """
    n = len(by_seed)
    if n < 2:
        return None
    sd = float(np.std(by_seed, ddof=1))
    if relation == "equivalent":
        return Power(n, sd, detectable_margin(sd, n), "margin")
    if relation in ("within", "no_worse"):  # by the ends of a 95 % interval
        return Power(n, sd, detectable_margin(sd, n, ALPHA / 2, one_side=relation == "no_worse"), "margin")
    return Power(n, sd, detectable_difference(sd, n), "slope" if relation == "trend" else "difference")


@dataclass(frozen=True)
class ClaimedTrend:
    """A metric goes up or down (`trend`) with the setting `x` ("" for the sweep's first) along the curve `where` other
    settings have these values. Slopes are taken over `scale`; `margin`: the least slope that counts.
    """

    metric: str
    trend: str
    x: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    scale: Scale = "number"
    margin: float = 0.0

    def as_data(self) -> dict[str, Any]:
        """Plain data that `parse_trend` reads back."""
        return asdict(self)

    def plain_wording(self, number: int) -> tuple[str, str]:
        """The sentences of a trend that comes without its own."""
        name = "" if number == 1 else str(number)
        place = f" where {side_name(self.where)}" if self.where else ""
        ends = f"from {{first{name}}} to {{last{name}}} ({{p{name}}})"
        what = f"{self.metric} {place}".strip()
        return (
            f"{what} is {self.trend} with {self.x or 'the number'}: {ends}.",
            f"{what} goes {ends}: the data do not show it {self.trend} with {self.x or 'the number'}.",
        )


def parse_trend(entry: Any, shared: Mapping[str, Any], where: str) -> ClaimedTrend:
    """A claimed trend from plain data. Raises UserError that names the claim and the field."""
    valid = ("metric", "trend", "x", "where", "scale", "margin")
    if not isinstance(entry, Mapping) or {*entry, *shared} - {*valid}:
        raise UserError(f"{where}: a trend has {', '.join(valid)}; found {shown(repr(entry), 200)}")
    entry = {**shared, **entry}
    metric, direction, x = entry.get("metric"), entry.get("trend"), entry.get("x", "")
    if not isinstance(metric, str) or not metric.strip():
        raise UserError(f"{where}: field metric must be text, found {metric!r}")
    if direction not in TRENDS:
        raise UserError(f"{where}: trend is {direction!r}, expected {' or '.join(TRENDS)}")
    scale, margin = entry.get("scale", "number"), entry.get("margin", 0.0)
    if scale not in SCALES:
        raise UserError(f"{where}: scale is {scale!r}, expected {', '.join(SCALES)}")
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise UserError(f"{where}: margin is {margin!r}, expected a number of 0 or more")
    if not isinstance(x, str):
        raise UserError(f"{where}: x is {x!r}, expected the name of a setting")
    at = check_settings(entry.get("where") or {}, where, "where")
    return ClaimedTrend(metric, direction, x, at, scale, float(margin))


def check_settings(value: Any, where: str, key: str) -> dict[str, Any]:
    """Settings with the values that an arm is at. Raises UserError for anything else than texts and numbers by name."""
    plain = isinstance(value, Mapping) and all(
        isinstance(k, str) and isinstance(v, str | int | float) and not isinstance(v, bool)
        for k, v in value.items()
    )
    if not plain:
        raise UserError(
            f"{where}: field {key} must have settings with their values, found {shown(repr(value), 100)}"
        )
    return dict(value)


def side_name(side: str | Mapping[str, Any]) -> str:
    """An arm as messages name it: by its name, or by the settings that it is at."""
    return side if isinstance(side, str) else ", ".join(f"{key}={value}" for key, value in side.items())


def numbered(values: Mapping[str, str], number: int) -> dict[str, str]:
    """The texts that a wording may hold of its comparison of this number: {p}, then {p2}, {p3}."""
    return {key if number == 1 else f"{key}{number}": text for key, text in values.items()}


@dataclass
class MeasuredTrend:
    """The numbers of one claimed trend: values at the ends, the trend between, and its p value over all claims."""

    comparison: ClaimedTrend
    at: Sequence[float]
    means: Sequence[float]
    trend: Trend
    arms: tuple[str, ...]
    """Their names."""
    p_adjusted: float | None = None

    @property
    def test(self) -> Test | None:
        """Page's test."""
        return self.trend.test

    def holds(self) -> bool:
        """Whether the ranks go the claimed way, and the slope over seeds beyond the margin as well."""
        if self.p_adjusted is None or self.p_adjusted >= ALPHA or self.trend.interval is None:
            return False
        sign, interval = TRENDS[self.comparison.trend], self.trend.interval
        return (interval.low if sign > 0 else -interval.high) > self.comparison.margin

    def is_refuted(self) -> bool:
        """Whether no part of the slope's interval goes the claimed way."""
        sign, interval = TRENDS[self.comparison.trend], self.trend.interval
        return (
            interval is not None and (interval.high if sign > 0 else -interval.low) <= self.comparison.margin
        )

    def power(self) -> Power | None:
        """Which slope these seeds could have shown."""
        return power_of(list(self.trend.by_seed.values()), "trend")

    def evidence(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found, power = self.trend, self.power()
        return {
            **self.comparison.as_data(),
            "at": list(self.at),
            "means": list(self.means),
            "slope": found.slope,
            "slope_per": UNITS[self.comparison.scale],
            "rho": found.rho,
            "interval": None if found.interval is None else [found.interval.low, found.interval.high],
            "interval_method": None if found.interval is None else found.interval.method,
            "test": found.test.name,
            "n": found.test.n,
            "p": found.test.p,
            "p_adjusted": self.p_adjusted,
            "holds": self.holds(),
            "power": None if power is None else asdict(power),
        }

    def fields(self, number: int) -> dict[str, str]:
        """The texts that a wording may hold: values at both ends, slope with its interval, rank correlation, p."""
        found, power, interval = self.trend, self.power(), self.trend.interval
        values = {
            "first": format_number(self.means[0]),
            "last": format_number(self.means[-1]),
            "slope": format_number(found.slope),
            "low": "?" if interval is None else format_number(interval.low),
            "high": "?" if interval is None else format_number(interval.high),
            "rho": format_number(found.rho),
            "p": format_p(found.test.p if self.p_adjusted is None else self.p_adjusted),
            "seeds": str(found.test.n),
            "detectable": "?" if power is None else format_number(power.detectable),
        }
        return numbered(values, number)


def measure_trend(
    claimed: ClaimedTrend, sweep: Sweep | None, rows: Mapping[str, Row], column: Column
) -> MeasuredTrend | str:
    """The numbers of a claimed trend, or why there are none."""
    about = f"Nothing can be said of the trend of {column.id}"
    if sweep is None:
        return f"{about}: these runs make no curve."
    x = claimed.x or sweep.axes.x[0]
    if x not in sweep.axes.x:
        return f"{about} over {x}: the curves are over {' and '.join(sweep.axes.x)}."
    place = sweep.axes.x.index(x)
    arms = sorted(sweep.having(claimed.where), key=lambda one: one.at[place])
    at = [one.at[place] for one in arms]
    if len(set(at)) < len(at):
        return f"{about} over {x}: several arms are at one number; name under where which curve is meant."
    if len(at) < FEWEST_VALUES:
        return f"{about} over {x}: it needs {FEWEST_VALUES} numbers or more, and there are {len(at)}."
    if claimed.scale == "log" and at[0] <= 0:
        return f"{about} over {x}: its scale is log, and {at[0]:g} is no number above 0."
    found = complete([one.arm for one in arms], rows, column)
    if found is None:
        return f"{about} over {x}: no seed has a value at every number."
    seeds, y_SK = found
    if len(seeds) < FEWEST_SEEDS:
        return f"{about} over {x}: it needs {FEWEST_SEEDS} seeds with a value at every number."
    return MeasuredTrend(
        claimed,
        at,
        [float(mean) for mean in y_SK.mean(axis=0)],
        trend(seeds, y_SK, at, claimed.scale),
        tuple(one.arm for one in arms),
    )
