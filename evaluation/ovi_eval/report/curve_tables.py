"""A sweep's values as tables, for Markdown, the terminal and the page: a number a line, a curve a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovi_eval.common.number_format import format_number, format_p
from ovi_eval.ranking.columns import Column
from ovi_eval.report import wording

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard
    from ovi_eval.ranking.sweep import Sweep

METHOD = (
    "Each value is a mean over seeds with its 95 % interval (Student's t over seeds, or a bootstrap over clips where "
    "there is one run). Seeds are paired: every seed has the same data order and noise at every number."
)
EFFECTS = (
    "Main effects and interaction: share of the variation between the cells' means, and p of a repeated-measures "
    "analysis of variance with seeds as subjects (lower-bound degrees of freedom, Geisser and Greenhouse 1958)."
)


@dataclass(frozen=True)
class ValueTable:
    """Plain text, not escaped; `column` is the metric, `title` what else it is of, "" where there is nothing else."""

    column: Column
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def value_tables(board: Leaderboard, sweep: Sweep) -> list[ValueTable]:
    """A table for each metric; of two settings one for each curve, the second setting's numbers side by side."""
    return [table for column in board.columns for table in _of(board, sweep, column)]


def _of(board: Leaderboard, sweep: Sweep, column: Column) -> list[ValueTable]:
    first = sweep.axes.x[0]
    if len(sweep.axes.x) == 1:
        rows = [
            (_at(sweep, value), *(_cell(board, sweep, column, series, (value,)) for series in sweep.series))
            for value in sweep.values()
        ]
        return _unless_empty(ValueTable(column, "", [first, *(s or "value" for s in sweep.series)], rows, []))
    found, (_, second) = [], sweep.axes.x
    for series in sweep.series:
        rows = [
            (_at(sweep, a), *(_cell(board, sweep, column, series, (a, b)) for b in sweep.values(1)))
            for a in sweep.values()
        ]
        heads = [first, *(f"{second} {_at(sweep, b, 1)}" for b in sweep.values(1))]
        found += _unless_empty(
            ValueTable(column, series, heads, rows, _effects(board, sweep, column, series))
        )
    return found


def _unless_empty(table: ValueTable) -> list[ValueTable]:
    return [table] if any(cell != "–" for row in table.rows for cell in row[1:]) else []


def _at(sweep: Sweep, value: float, axis: int = 0) -> str:
    paper = sweep.axes.paper.get(sweep.axes.x[axis])
    return f"{value:g}" + (
        " (paper)" if paper is not None and abs(paper - value) <= 1e-9 * abs(paper) else ""
    )


def _cell(board: Leaderboard, sweep: Sweep, column: Column, series: str, at: tuple[float, ...]) -> str:
    name = sweep.arm_at(series, at)
    row = next((row for row in board.arms if row.name == name), None)
    cell = None if row is None else row.cells.get(column.id)
    if cell is None:
        return "–"
    value = wording.number(cell.value, column) + wording.marks(cell)
    return f"{value} {wording.bounds(cell.interval, column, cell.value)}".rstrip()


def _effects(board: Leaderboard, sweep: Sweep, column: Column, series: str) -> list[str]:
    effects = sweep.effects({row.name: row for row in board.arms}, column, series)
    if effects is None:
        return ["No main effects: they need two seeds that have a value in every cell."]
    first, second = sweep.axes.x
    return [
        f"{name}: {format_number(100 * effect.share, 1)} % of the variation, {format_p(effect.p)}"
        + ("" if effect.f is None else f" (F = {format_number(effect.f)}, {effects.n_seeds} seeds)")
        for name, effect in (
            (first, effects.first),
            (second, effects.second),
            (f"interaction of {first} and {second}", effects.interaction),
        )
    ]
