"""A metric's axis in the page's drawings, whose SVG is in drawings.html. Lengths are in pixels of the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovi_eval.ranking.columns import Column
from ovi_eval.ranking.table import Row

WIDTH, SIDE = 290, 10
"""Of a panel and of a strip: the whole width, and the margin at either side."""


@dataclass(frozen=True)
class Axis:
    """The values from `low` to `high`, drawn from `left` to `right`."""

    low: float
    high: float
    left: float
    right: float

    @classmethod
    def of(cls, rows: Sequence[Row], column: Column, left: float = SIDE, right: float = WIDTH - SIDE) -> Axis:
        """Holds every mean, seed and interval of a column, with a little room. At least one row has a value."""
        values: list[float] = []
        for row in rows:
            if (cell := row.cells.get(column.id)) is not None:
                values += [cell.value, *cell.by_seed.values()]
                if cell.interval is not None:
                    values += [cell.interval.low, cell.interval.high]
        low, high = min(values), max(values)
        room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
        return cls(low - room, high + room, left, right)

    def x(self, value: float) -> float:
        """Where a value is drawn."""
        return round(self.left + (self.right - self.left) * (value - self.low) / (self.high - self.low), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Where the marks of round numbers are drawn, and their labels."""
        return [(self.x(tick), f"{tick:g}".replace("-", "−")) for tick in ticks(self.low, self.high)]


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers inside a range."""
    if not high - low > 1e-300:
        return [float(low)]
    step = 10.0 ** np.floor(np.log10((high - low) / 3))
    for factor in (5.0, 2.0):
        if (high - low) / (step * factor) >= 3:
            step *= factor
            break
    first, last = int(np.ceil(low / step)), int(np.floor(high / step))
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]
