"""The table behind a leaderboard: rows of arms, and cells with their uncertainty. Ranks and differences: `ranks`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ovi_eval.errors import UserError
from ovi_eval.ranking.columns import Column, comparison_key
from ovi_eval.results import copies
from ovi_eval.results.files import MetricValue, RunKind, RunResults
from ovi_eval.stats import intervals
from ovi_eval.stats.differences import Difference
from ovi_eval.stats.intervals import Interval, Seed


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
    the value is shown and not ranked. `beyond_references`: better than any reference reaches (see `ranks.held_up_to`).
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
    beyond_references: bool = False


@dataclass(frozen=True)
class Row:
    name: str
    kind: RunKind
    runs: Sequence[RunResults]
    cells: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def seeds(self) -> list[Seed]:
        return list(dict.fromkeys(run.seed for run in self.runs))

    @property
    def lineage(self) -> list[str]:
        """The lines of its runs' lineage; those that not all runs have are named with their seeds."""
        lines = dict.fromkeys(line for run in self.runs for line in run.lineage)
        of = {line: [run for run in self.runs if line in run.lineage] for line in lines}
        return [
            line
            if len(runs) == len(self.runs)
            else f"seed {', '.join(dict.fromkeys(str(run.seed) for run in runs))}: {line}"
            for line, runs in of.items()
        ]


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
        if key in b.metrics and comparison_key(a, metric) == comparison_key(b, b.metrics[key]):
            return key
    return None if a.metrics or b.metrics else "no metric"


def runs_with_value(row: Row, column: Column) -> list[RunResults]:
    """The row's runs with a value in the column, one a seed: those of the column's making only."""
    if column.kind == "loss":
        having = [run for run in row.runs if column.key in run.losses]
        return list({run.seed: run for run in reversed(having)}.values())[::-1]
    return [run for run in row.runs if (m := column.metric_of(run)) is not None and m.value is not None]


def values_of(row: Row, column: Column) -> dict[Seed, float]:
    """The row's values in a column by seed."""
    runs = runs_with_value(row, column)
    if column.kind == "loss":
        return {run.seed: run.losses[column.key] for run in runs}
    values = {run.seed: run.metrics[column.key].value for run in runs}
    return {seed: value for seed, value in values.items() if value is not None}


def clip_values(row: Row, column: Column) -> dict[Seed, dict[str, float]] | None:
    """Values per clip by seed, where the column's value is their mean in every run of the row; else None."""
    if column.kind != "mean":
        return None
    values = values_of(row, column)
    found = {run.seed: run.per_clip(column.key) for run in runs_with_value(row, column)}
    for seed, clips in found.items():
        if not clips or not math.isclose(
            float(np.mean(list(clips.values()))), values[seed], rel_tol=1e-3, abs_tol=1e-5
        ):
            return None
    return found or None


def with_cells(row: Row, columns: Sequence[Column], problems: list[str], over_clips: bool = True) -> Row:
    """The row with its cell in each column; without `over_clips`, values of two seeds or more are not resampled."""
    cells: dict[str, Cell] = {}
    for column in columns:
        values = values_of(row, column)
        if not values:
            continue
        clips = clip_values(row, column)
        listed = np.array(list(values.values()))
        runs = runs_with_value(row, column)
        metrics = [run.metrics[column.key] for run in runs] if column.kind != "loss" else []
        if clips is None and column.kind == "mean" and any(run.per_clip(column.key) for run in runs):
            problems.append(
                f"{row.name}: {column.id} is not the mean of its clips, so seeds are compared and not clips"
            )
        over_seeds = intervals.t_interval(listed, within=_ends(clips, column))
        resampled = _over_clips(clips, row, runs, column) if over_clips or over_seeds is None else None
        cells[column.id] = Cell(
            value=float(listed.mean()),
            by_seed=values,
            sd=float(listed.std(ddof=1)) if listed.size > 1 else None,
            interval=over_seeds or (stated_interval(metrics[0]) if len(metrics) == 1 else None) or resampled,
            over_clips=resampled,
            n_clips=min((metric.n for metric in metrics), default=None),
            coverage=min((metric.coverage for metric in metrics), default=1.0),
            n_distinct=min((m.n if m.distinct is None else m.distinct for m in metrics), default=None),
        )
    return replace(row, cells=cells)


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
                "lineage": list(run.lineage),
                "n_clips": run.n_clips,
                "provenance": dict(run.provenance),
                "notes": list(run.notes),
            }
            for run in row.runs
        ],
    }


def _cell_as_data(cell: Cell) -> dict[str, Any]:
    data = {**asdict(cell), "by_seed": by_seed_as_data(cell.by_seed)}
    if cell.versus_first is not None:
        data["versus_first"]["difference"]["by_seed"] = by_seed_as_data(cell.versus_first.difference.by_seed)
    return data


def by_seed_as_data(values: Mapping[Seed, float]) -> list[dict[str, Any]]:
    """The values as a list for JSON, whose keys are text only."""
    return [{"seed": seed, "value": value} for seed, value in values.items()]
