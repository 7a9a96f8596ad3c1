"""The table behind a leaderboard: columns that may be ranked, rows of arms, cells with their uncertainty.

Values of different versions or variants of a metric land in different columns; that is the whole of the
rule against ranking them together.
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
from ovi_eval.results import Direction, MetricKind, RunKind, RunResults
from ovi_eval.statistics import Difference, Interval, Seed


@dataclass(frozen=True)
class Column:
    """One quantity whose values may be ranked together: a metric of one version and variant, or a loss."""

    id: str
    key: str
    group: str
    direction: Direction
    unit: str = ""
    version: str = ""
    variant: str = ""
    kind: MetricKind | Literal["loss"] = "mean"

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
        return [run.seed for run in self.runs]


def columns_of(runs: Sequence[RunResults]) -> list[Column]:
    """A column for each metric, version and variant, so that values of different making are never ranked
    together.
    """
    variants: dict[str, dict[tuple[str, str], Column]] = {}
    for run in runs:
        for key, metric in run.metrics.items():
            same = variants.setdefault(key, {})
            made = (metric.variant, metric.version)
            if made in same:
                if same[made].direction != metric.direction:
                    raise EvalError(
                        f"{key}: {same[made].direction} is best once, {metric.direction} in {run.folder}, "
                        f"though both say version {metric.version}; score them with one version of ovi_eval"
                    )
                continue
            same[made] = Column(
                key,
                key,
                _group_of(key),
                metric.direction,
                metric.unit,
                metric.version,
                metric.variant,
                metric.kind,
            )
    columns = []
    for key, same in variants.items():
        for column in same.values():
            label = key
            if len({c.variant for c in same.values()}) > 1:
                label += f" [{column.variant or 'no variant'}]"
            if len({c.version for c in same.values()}) > 1:
                label += f" v{column.version}"
            columns.append(Column(**{**asdict(column), "id": label}))
    losses = dict.fromkeys(key for run in runs for key in run.losses)
    columns += [Column(f"loss/{key}", key, "losses", "lower", kind="loss") for key in losses]
    order = list(dict.fromkeys(column.group for column in columns))
    return sorted(columns, key=lambda column: order.index(column.group))


def _group_of(key: str) -> str:
    """ball/onset_f1 and ball/onset_iou belong together: ball/onset."""
    return key.split("_")[0]


def _values(row: Row, column: Column) -> dict[Seed, float]:
    """The row's values in a column by seed: those of the column's version and variant only."""
    if column.kind == "loss":
        return {run.seed: run.losses[column.key] for run in row.runs if column.key in run.losses}
    values: dict[Seed, float] = {}
    for run in row.runs:
        metric = run.metrics.get(column.key)
        if (
            metric is not None
            and metric.value is not None
            and (metric.variant, metric.version) == (column.variant, column.version)
        ):
            values[run.seed] = metric.value
    return values


def _clip_values(row: Row, column: Column) -> dict[Seed, dict[str, float]] | None:
    """Values per clip by seed, where the column's value is their mean in every run of the row; else None."""
    if column.kind != "mean":
        return None
    values = _values(row, column)
    found = {run.seed: run.per_clip(column.key) for run in row.runs if run.seed in values}
    for seed, clips in found.items():
        if not clips or not math.isclose(
            float(np.mean(list(clips.values()))), values[seed], rel_tol=1e-3, abs_tol=1e-5
        ):
            return None
    return found or None


def with_cells(row: Row, columns: Sequence[Column], problems: list[str]) -> Row:
    cells: dict[str, Cell] = {}
    for column in columns:
        values = _values(row, column)
        if not values:
            continue
        clips = _clip_values(row, column)
        listed = np.array(list(values.values()))
        metrics = [
            run.metrics[column.key] for run in row.runs if run.seed in values and column.kind != "loss"
        ]
        if clips is None and any(run.per_clip(column.key) for run in row.runs) and column.kind == "mean":
            problems.append(
                f"{row.name}: {column.id} is not the mean of its clips, so seeds are compared and not clips"
            )
        over_clips = _over_clips(clips, row.name, column.id)
        single = metrics[0].ci95 if len(metrics) == 1 else None
        stated = Interval(single[0], single[1], "as the run states it", metrics[0].n) if single else None
        cells[column.id] = Cell(
            value=float(listed.mean()),
            by_seed=values,
            sd=float(listed.std(ddof=1)) if listed.size > 1 else None,
            interval=statistics.t_interval(listed) or over_clips or stated,
            over_clips=over_clips,
            n_clips=min((metric.n for metric in metrics), default=None),
            coverage=min((metric.coverage for metric in metrics), default=1.0),
        )
    return Row(row.name, row.kind, row.runs, cells)


def _over_clips(clips: dict[Seed, dict[str, float]] | None, *names: str) -> Interval | None:
    if clips is None:
        return None
    ids = sorted({clip for values in clips.values() for clip in values})
    x_SN = np.array([[values.get(clip, np.nan) for clip in ids] for values in clips.values()])
    return statistics.crossed_bootstrap_interval(x_SN, statistics.generator(statistics.SEED, *names, "mean"))


def difference(a: Row, b: Row, column: Column) -> Difference | None:
    """Paired difference a - b in a column: over clips where both have values per clip, else over seeds."""
    clips_a, clips_b = _clip_values(a, column), _clip_values(b, column)
    if clips_a is not None and clips_b is not None:
        found = statistics.compare_clips(
            clips_a,
            clips_b,
            lambda name: statistics.generator(statistics.SEED, a.name, b.name, column.id, name),
        )
        if found is not None:
            return found
    values_a, values_b = _values(a, column), _values(b, column)
    return statistics.compare_seeds(values_a, values_b) if values_a and values_b else None


def compared(arms: Sequence[Row], columns: Sequence[Column], first: str) -> list[Row]:
    """Adds to every arm but the first its difference to the first, p values adjusted over the arms of each
    column.
    """
    reference = next(row for row in arms if row.name == first)
    cells = {row.name: dict(row.cells) for row in arms}
    for column in columns:
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
    """Adds each arm's rank in each column, 1 the best; references are never ranked."""
    cells = {row.name: dict(row.cells) for row in arms}
    for column in columns:
        target = next((row.cells[column.id].value for row in references if column.id in row.cells), None)
        if column.direction == "closer_to_reference" and target is None:
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
