"""How arms stand to one another: paired differences to the first, which values rest on too few clips, and ranks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Literal

from ovi_eval.ranking.claims import ALPHA
from ovi_eval.ranking.columns import Column
from ovi_eval.ranking.table import Row, VersusFirst, clip_values, runs_with_value, stated_interval, values_of
from ovi_eval.results import copies
from ovi_eval.results.files import Direction, RunResults
from ovi_eval.stats import intervals
from ovi_eval.stats.differences import Difference, compare_clips, compare_intervals, compare_seeds, holm


def difference(a: Row, b: Row, column: Column, of_b: Column | None = None) -> Difference | None:
    """Paired difference a - b in a column: over clips where both have values per clip, else over seeds; of two
    single runs by the intervals that they state. `of_b`: the column of b, where that is another.
    """
    other = of_b or column
    clips_a, clips_b = clip_values(a, column), clip_values(b, other)
    if clips_a is not None and clips_b is not None:
        purpose = (a.name, b.name, column.id, *([of_b.id] if of_b else []))
        found = compare_clips(
            clips_a,
            clips_b,
            lambda name: intervals.generator(intervals.SEED, *purpose, name),
            copies_of(a, b, column, other),
        )
        if found is not None:
            return found
    values_a, values_b = values_of(a, column), values_of(b, other)
    if not values_a or not values_b:
        return None
    single = [
        stated_interval(run.metrics[own.key])
        for row, own in ((a, column), (b, other))
        for run in _single(row, own)
    ]
    if len(single) == 2 and single[0] is not None and single[1] is not None:
        (value_a,), (value_b,) = values_a.values(), values_b.values()
        found = compare_intervals(value_a, single[0], value_b, single[1])
        if found is not None:
            return found
    return compare_seeds(values_a, values_b)


def copies_of(a: Row, b: Row, column: Column, of_b: Column | None = None) -> dict[str, Hashable] | None:
    """By clip id what a column's paired values are measurements of, equal where clips are copies on both sides; None
    where there are no copies.
    """
    if of_b is not None and of_b.key != column.key:
        return None
    return copies.units_over_runs(
        [*runs_with_value(a, column), *runs_with_value(b, of_b or column)], column.key
    )


def _single(row: Row, column: Column) -> list[RunResults]:
    """The one run that the row has in a column; empty where there are several, or the column holds a loss."""
    runs = runs_with_value(row, column)
    return runs if len(runs) == 1 and column.kind != "loss" else []


def compared(arms: Sequence[Row], columns: Sequence[Column], first: str) -> list[Row]:
    """Adds to every arm but the first its difference to the first, p values adjusted over the arms of each column."""
    reference = next(row for row in arms if row.name == first)
    found: Changes = {}
    for column in columns:
        if not column.comparable:
            continue
        having = [row for row in arms if column.id in row.cells and column.id in reference.cells]
        differences = {
            row.name: d
            for row in having
            if row is not reference and (d := difference(row, reference, column)) is not None
        }
        adjusted = holm([d.test.p for d in differences.values()])
        for (name, d), p in zip(differences.items(), adjusted, strict=True):
            verdict = verdict_on(d, p, column.direction)
            versus = VersusFirst(first, d, p, verdict if verdict in ("better", "worse") else "no_difference")
            found[name, column.id] = {"versus_first": versus}
    return _with_changes(arms, found)


Changes = dict[tuple[str, str], dict[str, Any]]
"""Fields of cells, by the row's name and the column's id."""


def _with_changes(rows: Sequence[Row], changes: Changes) -> list[Row]:
    return [
        replace(
            row, cells={c: replace(cell, **changes.get((row.name, c), {})) for c, cell in row.cells.items()}
        )
        for row in rows
    ]


def verdict_on(
    d: Difference, p: float | None, direction: Direction
) -> Literal["better", "worse", "differ", "no_difference", "not_tested"]:
    """What a difference with its adjusted p value says: it needs p below ALPHA and an interval without zero.

    `differ`: clearly apart where neither high nor low is better; `not_tested`: nothing says how sure it is.
    """
    if p is None or d.interval is None:
        return "not_tested"
    # The two can disagree near the border: a permutation test and a bootstrap are not each other's inverse.
    if p >= ALPHA or d.interval.low <= 0 <= d.interval.high:
        return "no_difference"
    if direction == "closer_to_reference":
        return "differ"
    return "better" if (d.value > 0) == (direction == "higher") else "worse"


def held_up_to(references: Sequence[Row], arms: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Marks the arms' values that are better than any reference of the column reaches: past the better end of each
    one's 95 % interval, or past its value where it has none. Where best is near the reference nothing is beyond it.
    """
    found: Changes = {}
    for column in columns:
        there = [row.cells[column.id] for row in references if column.id in row.cells]
        if not there or not column.comparable or column.direction == "closer_to_reference":
            continue
        sign = 1 if column.direction == "higher" else -1
        ends = [cell.value for cell in there]
        ends += [end for cell in there if (i := cell.interval) is not None for end in (i.low, i.high)]
        reach = max(sign * end for end in ends)
        for row in arms:
            if column.id in row.cells and sign * row.cells[column.id].value > reach:
                found[row.name, column.id] = {"beyond_references": True}
    return _with_changes(arms, found)


ENOUGH = 0.9
"""Share of the best coverage and of the most clips in a column that a value needs to be ranked."""


def marked(arms: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Marks the values of each column that rest on far fewer clips than the others', and so may be of the easy ones.

    A value is `partial` where the clips that it rests on, copies counted once, are below 9 tenths of the most of an arm
    in the column; of the others, where its coverage is below 9 tenths of the best.
    """
    found: Changes = {}
    for column in columns:
        own = {row.name: row.cells[column.id] for row in arms if column.id in row.cells}
        most = max((cell.n_distinct or 0 for cell in own.values()), default=0)
        few = {
            n for n, cell in own.items() if cell.n_distinct is not None and cell.n_distinct < ENOUGH * most
        }
        best = max((cell.coverage for name, cell in own.items() if name not in few), default=0.0)
        for name, cell in own.items():
            if name in few or cell.coverage < ENOUGH * best:
                found[name, column.id] = {"partial": True}
    return _with_changes(arms, found)


def ranked(arms: Sequence[Row], columns: Sequence[Column], references: Sequence[Row]) -> list[Row]:
    """Adds each arm's rank in each column, 1 the best; references are never ranked, nor is what is not comparable
    or partial.
    """
    found: Changes = {}
    for column in columns:
        target = target_of(references, column)
        if not column.comparable or (column.direction == "closer_to_reference" and target is None):
            continue
        scored = {
            row.name: badness(row.cells[column.id].value, column.direction, target)
            for row in arms
            if column.id in row.cells and not row.cells[column.id].partial
        }
        for name, own in scored.items():
            found[name, column.id] = {"rank": 1 + sum(other < own for other in scored.values())}
    return _with_changes(arms, found)


def badness(value: float, direction: Direction, target: float | None) -> float:
    """Lower is better; `target` is where values are best if the direction is "closer_to_reference"."""
    return {"higher": -value, "lower": value, "closer_to_reference": abs(value - (target or 0.0))}[direction]


def target_of(references: Sequence[Row], column: Column) -> float | None:
    """Where values of the column are best if its direction is "closer_to_reference": the first reference's value."""
    return next((row.cells[column.id].value for row in references if column.id in row.cells), None)
