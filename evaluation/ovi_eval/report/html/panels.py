"""Small drawings of the page, in SVG: an interval beside a number, and a panel for each metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovi_eval.ranking.table import Cell, Column, Row
from ovi_eval.report import words
from ovi_eval.report.palette import DASHES, colour
from ovi_eval.report.text import escape, line

_WIDE, _HIGH = 108, 14
_PANEL, _LINE, _TOP, _BOTTOM, _SIDE = 290, 38, 12, 28, 10
# With many arms the lines draw together.
_MANY, _NEAR = 8, 29
# Letters that fit across a panel.
_LETTERS = 34


def domain(rows: Sequence[Row], column: Column) -> tuple[float, float]:
    """The range that holds every mean, seed and interval of a column, with a little room. One row has a value."""
    values: list[float] = []
    for row in rows:
        cell = row.cells.get(column.id)
        if cell is not None:
            values += [cell.value, *cell.by_seed.values()]
            if cell.interval is not None:
                values += [cell.interval.low, cell.interval.high]
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def whisker(cell: Cell, tint: str, span: tuple[float, float]) -> str:
    """Interval, mean and seeds of a cell on the column's common axis."""

    def x(value: float) -> str:
        return f"{4 + (_WIDE - 8) * (value - span[0]) / (span[1] - span[0]):.1f}"

    middle = _HIGH / 2
    parts = [f'<line class="axis" x1="0" x2="{_WIDE}" y1="{middle}" y2="{middle}"/>']
    if cell.interval is not None:
        low, high = x(cell.interval.low), x(cell.interval.high)
        parts.append(
            f'<line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}" stroke="{tint}" stroke-width="2.5"/>'
        )
    if len(cell.by_seed) > 1:
        dots = [
            f'<circle class="seed" cx="{x(v)}" cy="{middle}" r="2.4" stroke="{tint}"/>'
            for v in cell.by_seed.values()
        ]
        parts += dots
    parts.append(f'<circle cx="{x(cell.value)}" cy="{middle}" r="3.2" fill="{tint}"/>')
    size = f'width="{_WIDE}" height="{_HIGH}" viewBox="0 0 {_WIDE} {_HIGH}"'
    return f'<svg class="whisker" {size} aria-hidden="true">{"".join(parts)}</svg>'


def panel(arms: Sequence[Row], references: Sequence[Row], column: Column) -> str:
    """One metric: every arm on a line of its own under its name, references as dashed lines across."""
    shown = [(i, row) for i, row in enumerate(arms) if column.id in row.cells]
    low, high = domain([*arms, *references], column)
    step = _LINE if len(shown) <= _MANY else _NEAR
    bottom = _TOP + step * max(1, len(shown))
    height = bottom + _BOTTOM

    def x(value: float) -> float:
        return round(_SIDE + (_PANEL - 2 * _SIDE) * (value - low) / (high - low), 1)

    parts = []
    for tick in ticks(low, high):
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP - 6}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{_tick(tick)}</text>'
        )
    for number, row in enumerate(references):
        cell = row.cells.get(column.id)
        if cell is not None:
            dash = " ".join(f"{length:g}" for length in DASHES[number % len(DASHES)])
            label = f"<title>{escape(row.name)}: {escape(words.number(cell.value, column))}</title>"
            line = f'x1="{x(cell.value)}" x2="{x(cell.value)}" y1="{_TOP - 6}" y2="{bottom}"'
            parts.append(f'<line class="reference" {line} stroke-dasharray="{dash}">{label}</line>')
    for place, (i, row) in enumerate(shown):
        cell, y, tint = row.cells[column.id], _TOP + step * place + 24, colour(i)
        label = f"<title>{escape(row.name + ': ' + '; '.join(words.explain(cell, column)))}</title>"
        parts.append(
            f'<g>{label}<text class="name" x="{_SIDE}" y="{y - 10}">{escape(_fitting(row.name))}</text>'
        )
        if cell.interval is not None:
            ends = f'x1="{x(cell.interval.low)}" x2="{x(cell.interval.high)}" y1="{y}" y2="{y}"'
            parts.append(f'<line {ends} stroke="{tint}" stroke-width="3" stroke-linecap="round"/>')
        if len(cell.by_seed) > 1:
            parts += [
                f'<circle class="seed" cx="{x(v)}" cy="{y}" r="3" stroke="{tint}"/>'
                for v in cell.by_seed.values()
            ]
        parts.append(f'<circle cx="{x(cell.value)}" cy="{y}" r="4.5" fill="{tint}"/></g>')
    said = ", ".join(f"{row.name} {words.number(row.cells[column.id].value, column)}" for _, row in shown)
    title = escape(f"{column.id}: {said}")
    size = f'viewBox="0 0 {_PANEL} {height}"'
    return f'<svg class="panel" {size} role="img" aria-label="{title}">{"".join(parts)}</svg>'


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _fitting(name: str) -> str:
    """A name as far as it fits above its line."""
    return line(name, _LETTERS)


def strip(row: Row, rows: Sequence[Row], column: Column, tint: str | None) -> str:
    """One row's value and interval on the column's axis, small marks where the other rows are."""
    low, high = domain(rows, column)
    middle, bottom = 14, 26

    def x(value: float) -> float:
        return round(_SIDE + (_PANEL - 2 * _SIDE) * (value - low) / (high - low), 1)

    ink, cell = tint or "currentColor", row.cells[column.id]
    parts = [f'<line class="axis" x1="{_SIDE}" x2="{_PANEL - _SIDE}" y1="{bottom}" y2="{bottom}"/>']
    for tick in ticks(low, high):
        parts.append(f'<line class="axis" x1="{x(tick)}" x2="{x(tick)}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(
            f'<text class="tick" x="{x(tick)}" y="{bottom + 17}" text-anchor="middle">{_tick(tick)}</text>'
        )
    for other in rows:
        there = other.cells.get(column.id)
        if there is not None and other is not row:
            kind = "reference" if other.kind == "reference" else "other"
            title = f"<title>{escape(other.name)}: {escape(words.number(there.value, column))}</title>"
            ends = f'x1="{x(there.value)}" x2="{x(there.value)}" y1="{middle - 7}" y2="{middle + 7}"'
            dash = ' stroke-dasharray="2 2"' if kind == "reference" else ""
            parts.append(f'<line class="{kind}" {ends}{dash}>{title}</line>')
    if cell.interval is not None:
        ends = f'x1="{x(cell.interval.low)}" x2="{x(cell.interval.high)}" y1="{middle}" y2="{middle}"'
        parts.append(f'<line {ends} stroke="{ink}" stroke-width="4" stroke-linecap="round" opacity=".55"/>')
    parts.append(f'<circle cx="{x(cell.value)}" cy="{middle}" r="6" fill="{ink}"/>')
    return (
        f'<svg class="strip" viewBox="0 0 {_PANEL} {bottom + 21}" aria-hidden="true">{"".join(parts)}</svg>'
    )


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


def reference_key(references: Sequence[Row]) -> str:
    """Which dashes are which reference."""
    parts = []
    for number, row in enumerate(references):
        dash = " ".join(f"{length:g}" for length in DASHES[number % len(DASHES)])
        line = f'<line class="reference" x1="1" x2="33" y1="6" y2="6" stroke-dasharray="{dash}"/>'
        parts.append(
            f'<li><svg width="34" height="12" aria-hidden="true">{line}</svg> {escape(row.name)}</li>'
        )
    return f'<ul class="key">{"".join(parts)}</ul>' if parts else ""
