"""The table behind a leaderboard: columns that may be ranked, rows of arms, cells with their uncertainty.

Values of different versions, variants or benchmarks of a metric, and those of a part of the clips, land in
different columns; that is the whole of the rule against ranking them together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ovi_eval import statistics
from ovi_eval.claims import ALPHA
from ovi_eval.errors import EvalError
from ovi_eval.results import Direction, MetricKind, MetricValue, RunKind, RunResults
from ovi_eval.statistics import Difference, Interval, Seed


@dataclass(frozen=True)
class Column:
    """One quantity whose values may be ranked together: a metric of one version, variant and benchmark, or a
    loss. Values that are not `comparable` (of a part of the clips) have a column that is shown and never ranked.
    """

    id: str
    key: str
    group: str
    direction: Direction
    unit: str = ""
    version: str = ""
    variant: str = ""
    kind: MetricKind | Literal["loss"] = "mean"
    benchmark: str = ""
    comparable: bool = True

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", "closer_to_reference": "→ref"}[self.direction]


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
    `over_clips` resamples clips (and seeds, where there are several); None without values per clip.
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


@dataclass(frozen=True)
class Row:
    name: str
    kind: RunKind
    runs: Sequence[RunResults]
    cells: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def seeds(self) -> list[Seed]:
        return list(dict.fromkeys(run.seed for run in self.runs))


@dataclass(frozen=True)
class Making:
    """All that must agree before two values of a metric may be ranked or compared."""

    variant: str
    version: str
    benchmark: str
    comparable: bool

    @classmethod
    def of(cls, run: RunResults, metric: MetricValue) -> Making:
        return cls(metric.variant, metric.version, run.benchmark, metric.comparable)


def columns_of(runs: Sequence[RunResults]) -> list[Column]:
    """A column for each metric and making, so that values of different making are never ranked together.

    Columns of one metric are told apart in their ids by what they differ in. Raises EvalError where one version
    of a metric is best high once and low another time.
    """
    found: dict[str, dict[Making, Column]] = {}
    for run in runs:
        for key, metric in run.metrics.items():
            same, made = found.setdefault(key, {}), Making.of(run, metric)
            if made in same:
                if same[made].direction != metric.direction:
                    raise EvalError(
                        f"{key}: {same[made].direction} is best once, {metric.direction} in {run.folder}, "
                        f"though both say version {metric.version}; score them with one version of ovi_eval"
                    )
                continue
            same[made] = Column(
                id=key,
                key=key,
                group=_group_of(key),
                direction=metric.direction,
                unit=metric.unit,
                kind=metric.kind,
                **asdict(made),
            )
    columns = [
        replace(column, id=key + _told_apart(column, list(same.values())))
        for key, same in found.items()
        for column in same.values()
    ]
    losses = dict.fromkeys(key for run in runs for key in run.losses)
    columns += [Column(f"loss/{key}", key, "losses", "lower", kind="loss") for key in losses]
    order = list(dict.fromkeys(column.group for column in columns))
    return sorted(columns, key=lambda column: order.index(column.group))


def _told_apart(column: Column, same: Sequence[Column]) -> str:
    """What a column's id needs beyond the metric's name, so that it is the only one of that name."""
    label = ""
    if len({c.variant for c in same}) > 1:
        label += f" [{column.variant or 'no variant'}]"
    if len({c.version for c in same}) > 1:
        label += f" v{column.version}"
    if len({c.benchmark for c in same}) > 1:
        label += f" on {column.benchmark or 'no benchmark'}"
    return label if column.comparable else f"{label} (not comparable)"


def _group_of(key: str) -> str:
    """ball/onset_f1 and ball/onset_iou belong together: ball/onset."""
    return key.split("_")[0]


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
        over_clips = _over_clips(clips, row.name, column.id)
        over_seeds = statistics.t_interval(listed, within=_ends(clips, column))
        cells[column.id] = Cell(
            value=float(listed.mean()),
            by_seed=values,
            sd=float(listed.std(ddof=1)) if listed.size > 1 else None,
            interval=over_seeds or (stated_interval(metrics[0]) if len(metrics) == 1 else None) or over_clips,
            over_clips=over_clips,
            n_clips=min((metric.n for metric in metrics), default=None),
            coverage=min((metric.coverage for metric in metrics), default=1.0),
        )
    return Row(row.name, row.kind, row.runs, cells)


def stated_interval(metric: MetricValue) -> Interval | None:
    """The interval over its clips that a run states for a value; None where it states none."""
    if metric.ci95 is None:
        return None
    return Interval(metric.ci95[0], metric.ci95[1], "over clips, as the run states it", metric.n)


def _ends(clips: dict[Seed, dict[str, float]] | None, column: Column) -> tuple[float, float]:
    """Where the mean of a share must end; nowhere for what has a unit or no values per clip."""
    if clips is None or column.unit:
        return -math.inf, math.inf
    return statistics.ends_of([value for of_run in clips.values() for value in of_run.values()])


def _over_clips(clips: dict[Seed, dict[str, float]] | None, *names: str) -> Interval | None:
    if clips is None:
        return None
    ids = sorted({clip for values in clips.values() for clip in values})
    x_SN = np.array([[values.get(clip, np.nan) for clip in ids] for values in clips.values()])
    return statistics.crossed_bootstrap_interval(x_SN, statistics.generator(statistics.SEED, *names, "mean"))


def difference(a: Row, b: Row, column: Column) -> Difference | None:
    """Paired difference a - b in a column: over clips where both have values per clip, else over seeds; of two
    single runs by the intervals that they state.
    """
    clips_a, clips_b = clip_values(a, column), clip_values(b, column)
    if clips_a is not None and clips_b is not None:
        found = statistics.compare_clips(
            clips_a,
            clips_b,
            lambda name: statistics.generator(statistics.SEED, a.name, b.name, column.id, name),
        )
        if found is not None:
            return found
    values_a, values_b = values_of(a, column), values_of(b, column)
    if not values_a or not values_b:
        return None
    single = [stated_interval(run.metrics[column.key]) for row in (a, b) for run in _single(row, column)]
    if len(single) == 2 and single[0] is not None and single[1] is not None:
        (value_a,), (value_b,) = values_a.values(), values_b.values()
        found = statistics.compare_intervals(value_a, single[0], value_b, single[1])
        if found is not None:
            return found
    return statistics.compare_seeds(values_a, values_b)


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
        adjusted = statistics.holm([d.test.p if d else None for d in differences])
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


def ranked(arms: Sequence[Row], columns: Sequence[Column], references: Sequence[Row]) -> list[Row]:
    """Adds each arm's rank in each column, 1 the best; references are never ranked, nor what is not comparable."""
    cells = {row.name: dict(row.cells) for row in arms}
    for column in columns:
        target = next((row.cells[column.id].value for row in references if column.id in row.cells), None)
        if not column.comparable or (column.direction == "closer_to_reference" and target is None):
            continue
        scored = []
        for row in arms:
            if column.id in row.cells:
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
