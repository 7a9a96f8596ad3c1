"""How the leaderboard's columns are laid out in tables of the page, and what its filters offer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovi_eval.ranking.columns import Column, grouped
from ovi_eval.ranking.table import Row
from ovi_eval.report import wording
from ovi_eval.report.html.drawings import Axis
from ovi_eval.report.palette import colour

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

# Pixels between the margins of a wide screen, of a column, and of what stands around a name.
_PAGE_WIDE, _COLUMN_WIDE, _AROUND_NAME, _NAME_WIDE = 1130, 136, 48, 240
_WHISKER = (4, 104)
# More metrics than this can be chosen from: fewer are seen at once.
FEW = 6
# A table of references with more lines than this is folded.
FEW_LINES = 14

Groups = dict[str, list[Column]]


@dataclass(frozen=True)
class MetricTable:
    """Models in rows, metrics in columns; rows without a value in any of its columns are left out."""

    groups: Groups
    """The columns by metric group, in order."""
    columns: Sequence[Column]
    axes: Mapping[str, Axis]
    """By column id what intervals are drawn on."""
    arms: Sequence[tuple[Row, str]]
    """Each with its colour."""
    aims: Mapping[str, str]
    """By column id the first reference's name and value."""


def metric_tables(board: Leaderboard) -> dict[str, list[MetricTable]]:
    """The tables of each benchmark."""
    return {
        benchmark: [_table(board, groups) for groups in _side_by_side(board, own)]
        for benchmark, own in grouped(board.columns, "benchmark").items()
    }


def _side_by_side(board: Leaderboard, columns: Sequence[Column]) -> list[Groups]:
    """The metric groups in order, as many to a table as fit; one which fits beside earlier ones moves up to them."""
    longest = max(len(row.name) for row in board.arms)
    arm = _AROUND_NAME + min(_NAME_WIDE, 7.3 * longest)
    fit = max(1, int((_PAGE_WIDE - arm) / _COLUMN_WIDE))
    # As many columns in each table, rather than full ones and a rest.
    most = math.ceil(len(columns) / math.ceil(len(columns) / fit))
    tables: list[Groups] = []
    for name, members in grouped(columns, "group").items():
        for table in tables:
            if sum(map(len, table.values())) + len(members) <= most:
                table[name] = members
                break
        else:
            tables.append({name: members})
    return tables


def _table(board: Leaderboard, groups: Groups) -> MetricTable:
    columns = [column for members in groups.values() for column in members]
    rows = [*board.arms, *board.references]
    axes = {c.id: Axis.of(rows, c, *_WHISKER) for c in columns if any(c.id in row.cells for row in rows)}
    aims = {
        column.id: f"{row.name} {wording.number(row.cells[column.id].value, column)}"
        for row in reversed(board.references)
        for column in columns
        if column.id in row.cells
    }
    return MetricTable(groups, columns, axes, having(board.arms, *columns), aims)


def reference_lines(board: Leaderboard) -> dict[str, list[tuple[Column, Axis]]]:
    """By benchmark the columns in which a reference has a value, each with the axis of its row."""
    rows = board.references
    columns = [column for column in board.columns if having(rows, column)]
    return {
        benchmark: [(column, Axis.of(rows, column, *_WHISKER)) for column in own]
        for benchmark, own in grouped(columns, "benchmark").items()
    }


def having(rows: Sequence[Row], *columns: Column) -> list[tuple[Row, str]]:
    """The rows with a value in any of the columns, each with the colour of its place."""
    return [(row, colour(i)) for i, row in enumerate(rows) if any(c.id in row.cells for c in columns)]


Options = tuple[str, Sequence[tuple[str, str]]]
"""A heading, "" for none, and the values and texts below it that can be chosen."""


def filters(board: Leaderboard) -> dict[str, list[Options]]:
    """The choices between benchmarks, variants and metrics, by name; none where there is nothing to choose between."""
    found: dict[str, list[Options]] = {}
    measured = {column.benchmark for column in board.columns}
    benchmarks = list(dict.fromkeys([*sorted(measured), *(table.benchmark for table in board.published)]))
    if len(benchmarks) > 1 and any(measured):
        found["benchmark"] = [("", [(name, name) for name in benchmarks if name])]
    variants: dict[str, dict[str, None]] = {}
    for column in board.columns:
        if column.variant:
            variants.setdefault(column.variant, {})[wording.metric_name(column)] = None
    if len(variants) > 1:
        options = [(name, f"{name} ({_first_few(list(keys))})") for name, keys in variants.items()]
        found["variant"] = [("", options)]
    if len({column.key for column in board.columns}) > FEW:
        found["metric"] = [_metrics(name, own) for name, own in grouped(board.columns, "group").items()]
    return found


def _metrics(group: str, columns: Sequence[Column]) -> Options:
    """The metrics of a group; its name with a star stands for all of them, as FVD's variants are metrics each."""
    titles = {column.key: column.title for column in columns}
    options = [(key, f"{key}: {title}" if title else key) for key, title in titles.items()]
    if len(options) == 1:
        return "", options
    return group, [(f"{group}*", f"{group}: all {len(options)}"), *options]


def _first_few(keys: Sequence[str], most: int = 3) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
