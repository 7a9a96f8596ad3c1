"""The table behind a leaderboard: rows of arms, cells with their uncertainty, differences and ranks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ovi_eval.errors import UserError
from ovi_eval.ranking.claims import ALPHA
from ovi_eval.ranking.columns import Column, Making, columns_of
from ovi_eval.results import copies
from ovi_eval.results.files import Direction, MetricValue, RunKind, RunResults
from ovi_eval.stats import intervals
from ovi_eval.stats.intervals import Difference, Interval, Seed

__all__ = ["Cell", "Column", "Making", "Row", "VersusFirst", "columns_of"]


@dataclass(frozen=True)
class VersusFirst:
    """Paired difference of this arm to the first; `p_adjusted` by Holm over the arms of the column."""

    arm: str
    difference: Difference
    p_adjusted: float | None
    verdict: Literal["better", "worse", "no_difference"]


@dataclass(frozen=True)
class Cell:
    """One arm on one column. `value` is the mean over seeds of each run's value.

    `interval` is the one to show: t over seeds with two seeds or more, else over the clips of the one run.
    `over_clips` resamples clips (and seeds, where there are several); None without values per clip. `n_distinct` of the
    `n_clips` differ in content. `partial`: far fewer clips were judged than of the other arms (see `marked`), so that
    the value is shown and not ranked.
    """

    value: float
    by_seed: Mapping[Seed, float]
    sd: float | None
    interval: Interval | None
    over_clips: Interval | None
    n_clips: int | None
    coverage: float
    rank: int | None = None
    versus_first: VersusFirst | None = None
    n_distinct: int | None = None
    partial: bool = False


@dataclass(frozen=True)
class Row:
    name: str
    kind: RunKind
    runs: Sequence[RunResults]
    cells: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def seeds(self) -> list[Seed]:
        return list(dict.fromkeys(run.seed for run in self.runs))


def rows_of(runs: Sequence[RunResults]) -> list[Row]:
    """Runs by arm, in the order they came; references apart from measured arms of the same name.

    One seed may have several files, as of two benchmarks or of metrics scored one after the other, but each
    value only once: else UserError.
    """
    grouped: dict[tuple[str, RunKind], list[RunResults]] = {}
    for run in runs:
        same = grouped.setdefault((run.name, run.kind), [])
        for other in same:
            if other.seed == run.seed and (twice := _in_both(other, run)) is not None:
                raise UserError(
                    f"{run.label()} was found twice, in {other.source} and in {run.source} (both have {twice}); "
                    "leave one out, or score each with its own --seed"
                )
        same.append(run)
    return [Row(name, kind, same) for (name, kind), same in grouped.items()]


def _in_both(a: RunResults, b: RunResults) -> str | None:
    """A metric that both runs have in one version, variant and benchmark, or `no metric` where both have none."""
    for key, metric in a.metrics.items():
        if key in b.metrics and Making.of(a, metric) == Making.of(b, b.metrics[key]):
            return key
    return None if a.metrics or b.metrics else "no metric"


def _runs_of(row: Row, column: Column) -> list[RunResults]:
    """The row's runs with a value in the column, one a seed: those of the column's making only."""
    if column.kind == "loss":
        having = [run for run in row.runs if column.key in run.losses]
        return list({run.seed: run for run in reversed(having)}.values())[::-1]
    making = Making(column.variant, column.version, column.benchmark, column.comparable)
    return [
        run
        for run in row.runs
        if (metric := run.metrics.get(column.key)) is not None
        and metric.value is not None
        and Making.of(run, metric) == making
    ]


def values_of(row: Row, column: Column) -> dict[Seed, float]:
    """The row's values in a column by seed."""
    runs = _runs_of(row, column)
    if column.kind == "loss":
        return {run.seed: run.losses[column.key] for run in runs}
    values = {run.seed: run.metrics[column.key].value for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}


def clip_values(row: Row, column: Column) -> dict[Seed, dict[str, float]] | None:
    """Values per clip by seed, where the column's value is their mean in every run of the row; else None."""
    if column.kind != "mean":
        return None
    values = values_of(row, column)
    found = {run.seed: run.per_clip(column.key) for run in _runs_of(row, column)}
    for seed, clips in found.items():
        if not clips or not math.isclose(
            float(np.mean(list(clips.values()))), values[seed], rel_tol=1e-3, abs_tol=1e-5
        ):
            return None
    return found or None


def with_cells(row: Row, columns: Sequence[Column], problems: list[str]) -> Row:
    cells: dict[str, Cell] = {}
    for column in columns:
        values = values_of(row, column)
        if not values:
            continue
        clips = clip_values(row, column)
        listed = np.array(list(values.values()))
        runs = _runs_of(row, column)
        metrics = [run.metrics[column.key] for run in runs] if column.kind != "loss" else []
        if clips is None and column.kind == "mean" and any(run.per_clip(column.key) for run in runs):
            problems.append(
                f"{row.name}: {column.id} is not the mean of its clips, so seeds are compared and not clips"
            )
        over_clips = _over_clips(clips, row, runs, column)
        over_seeds = intervals.t_interval(listed, within=_ends(clips, column))
        cells[column.id] = Cell(
            value=float(listed.mean()),
            by_seed=values,
            sd=float(listed.std(ddof=1)) if listed.size > 1 else None,
            interval=over_seeds or (stated_interval(metrics[0]) if len(metrics) == 1 else None) or over_clips,
            over_clips=over_clips,
            n_clips=min((metric.n for metric in metrics), default=None),
            coverage=min((metric.coverage for metric in metrics), default=1.0),
            n_distinct=min((m.n if m.distinct is None else m.distinct for m in metrics), default=None),
        )
    return Row(row.name, row.kind, row.runs, cells)


def stated_interval(metric: MetricValue) -> Interval | None:
    """The interval over its clips that a run states for a value; None where it states none."""
    if metric.ci95 is None:
        return None
    n = metric.n if metric.distinct is None else metric.distinct
    return Interval(metric.ci95[0], metric.ci95[1], "over clips, as the run states it", n)


def _ends(clips: dict[Seed, dict[str, float]] | None, column: Column) -> tuple[float, float]:
    """Where the mean of a share must end; nowhere for what has a unit or no values per clip."""
    if clips is None or column.unit:
        return -math.inf, math.inf
    return intervals.ends_of([value for of_run in clips.values() for value in of_run.values()])


def _over_clips(
    clips: dict[Seed, dict[str, float]] | None, row: Row, runs: Sequence[RunResults], column: Column
) -> Interval | None:
    if clips is None:
        return None
    one = copies.units_over_runs(runs, column.key)
    if len(clips) == 1:
        (of_run,) = clips.values()
        units = None if one is None else [one[clip] for clip in of_run]
        return intervals.mean_interval(list(of_run.values()), column.key, units=units)
    ids = sorted({clip for values in clips.values() for clip in values})
    x_SN = np.array([[values.get(clip, np.nan) for clip in ids] for values in clips.values()])
    rng = intervals.generator(intervals.SEED, row.name, column.id, "mean")
    units = None if one is None else [one[clip] for clip in ids]
    return intervals.crossed_bootstrap_interval(x_SN, rng, units=units)


def difference(a: Row, b: Row, column: Column) -> Difference | None:
    """Paired difference a - b in a column: over clips where both have values per clip, else over seeds; of two
    single runs by the intervals that they state.
    """
    clips_a, clips_b = clip_values(a, column), clip_values(b, column)
    if clips_a is not None and clips_b is not None:
        found = intervals.compare_clips(
            clips_a,
            clips_b,
            lambda name: intervals.generator(intervals.SEED, a.name, b.name, column.id, name),
            copies_of(a, b, column),
        )
        if found is not None:
            return found
    values_a, values_b = values_of(a, column), values_of(b, column)
    if not values_a or not values_b:
        return None
    single = [stated_interval(run.metrics[column.key]) for row in (a, b) for run in _single(row, column)]
    if len(single) == 2 and single[0] is not None and single[1] is not None:
        (value_a,), (value_b,) = values_a.values(), values_b.values()
        found = intervals.compare_intervals(value_a, single[0], value_b, single[1])
        if found is not None:
            return found
    return intervals.compare_seeds(values_a, values_b)


def copies_of(a: Row, b: Row, column: Column) -> dict[str, Hashable] | None:
    """By clip id what a column's paired values are measurements of, equal where clips are copies on both sides; None
    where there are no copies.
    """
    return copies.units_over_runs([*_runs_of(a, column), *_runs_of(b, column)], column.key)


def _single(row: Row, column: Column) -> list[RunResults]:
    """The one run that the row has in a column; empty where there are several, or the column holds a loss."""
    runs = _runs_of(row, column)
    return runs if len(runs) == 1 and column.kind != "loss" else []


def compared(arms: Sequence[Row], columns: Sequence[Column], first: str) -> list[Row]:
    """Adds to every arm but the first its difference to the first, p values adjusted over the arms of each
    column.
    """
    reference = next(row for row in arms if row.name == first)
    cells = {row.name: dict(row.cells) for row in arms}
    for column in columns:
        if not column.comparable:
            continue
        others = [
            row
            for row in arms
            if row.name != first and column.id in row.cells and column.id in reference.cells
        ]
        differences = [difference(row, reference, column) for row in others]
        adjusted = intervals.holm([d.test.p if d else None for d in differences])
        for row, d, p in zip(others, differences, adjusted, strict=True):
            if d is not None:
                versus = VersusFirst(first, d, p, _verdict(d, p, column.direction))
                cells[row.name][column.id] = replace(cells[row.name][column.id], versus_first=versus)
    return [Row(row.name, row.kind, row.runs, cells[row.name]) for row in arms]


def _verdict(
    d: Difference, p: float | None, direction: Direction
) -> Literal["better", "worse", "no_difference"]:
    clear = p is not None and p < ALPHA and d.interval is not None and d.interval.low * d.interval.high > 0
    if not clear or direction == "closer_to_reference":
        return "no_difference"
    return "better" if (d.value > 0) == (direction == "higher") else "worse"


ENOUGH = 0.9
"""Share of the best coverage and of the most clips in a column that a value needs to be ranked."""


def marked(arms: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Marks the values of each column that rest on far fewer clips than the others', and so may be of the easy ones.

    A value is `partial` where the clips that it rests on, copies counted once, are below 9 tenths of the most of an arm
    in the column; of the others, where its coverage is below 9 tenths of the best.
    """
    cells = {row.name: dict(row.cells) for row in arms}
    for column in columns:
        own = {name: of_row[column.id] for name, of_row in cells.items() if column.id in of_row}
        most = max((cell.n_distinct or 0 for cell in own.values()), default=0)
        few = {
            n for n, cell in own.items() if cell.n_distinct is not None and cell.n_distinct < ENOUGH * most
        }
        best = max((cell.coverage for name, cell in own.items() if name not in few), default=0.0)
        for name, cell in own.items():
            if name in few or cell.coverage < ENOUGH * best:
                cells[name][column.id] = replace(cell, partial=True)
    return [Row(row.name, row.kind, row.runs, cells[row.name]) for row in arms]


def ranked(arms: Sequence[Row], columns: Sequence[Column], references: Sequence[Row]) -> list[Row]:
    """Adds each arm's rank in each column, 1 the best; references are never ranked, nor is what is not comparable
    or partial.
    """
    cells = {row.name: dict(row.cells) for row in arms}
    for column in columns:
        target = next((row.cells[column.id].value for row in references if column.id in row.cells), None)
        if not column.comparable or (column.direction == "closer_to_reference" and target is None):
            continue
        scored = []
        for row in arms:
            if column.id in row.cells and not row.cells[column.id].partial:
                value = row.cells[column.id].value
                worse = {
                    "higher": -value,
                    "lower": value,
                    "closer_to_reference": abs(value - (target or 0.0)),
                }
                scored.append((worse[column.direction], row.name))
        for worse_by, name in scored:
            rank = 1 + sum(other < worse_by for other, _ in scored)
            cells[name][column.id] = replace(cells[name][column.id], rank=rank)
    return [Row(row.name, row.kind, row.runs, cells[row.name]) for row in arms]


def row_as_data(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "kind": row.kind,
        "seeds": row.seeds,
        "metrics": {column: _cell_as_data(cell) for column, cell in row.cells.items()},
        "runs": [
            {
                "seed": run.seed,
                "created": run.created,
                "config_hash": run.config_hash,
                "n_clips": run.n_clips,
                "provenance": dict(run.provenance),
                "notes": list(run.notes),
            }
            for run in row.runs
        ],
    }


def _cell_as_data(cell: Cell) -> dict[str, Any]:
    data = asdict(cell)
    data["by_seed"] = [{"seed": seed, "value": value} for seed, value in cell.by_seed.items()]
    if cell.versus_first is not None:
        by_seed = cell.versus_first.difference.by_seed
        data["versus_first"]["difference"]["by_seed"] = [{"seed": s, "value": v} for s, v in by_seed.items()]
    return data
