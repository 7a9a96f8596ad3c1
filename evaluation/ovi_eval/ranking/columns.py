"""Which values may be ranked together: one column for each metric, version, variant and benchmark.

Values of different versions, variants or benchmarks of a metric, and those of a part of the clips, land in
different columns; that is the whole of the rule against ranking them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ovi_eval.errors import UserError
from ovi_eval.results.files import Direction, MetricKind, MetricValue, RunResults

ARROWS: dict[Direction, str] = {"higher": "↑", "lower": "↓", "closer_to_reference": "→ref"}


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
        """Which way is better."""
        return ARROWS[self.direction]

    def metric_of(self, run: RunResults) -> MetricValue | None:
        """The run's metric where it belongs into this column; None for a loss."""
        metric = run.metrics.get(self.key) if self.kind != "loss" else None
        if metric is None or ComparisonKey.of(run, metric) != ComparisonKey.of_column(self):
            return None
        return metric


@dataclass(frozen=True)
class ComparisonKey:
    """All that must agree before two values of a metric may be ranked or compared."""

    variant: str
    version: str
    benchmark: str
    comparable: bool

    @classmethod
    def of(cls, run: RunResults, metric: MetricValue) -> ComparisonKey:
        """Of a run's metric."""
        return cls(metric.variant, metric.version, run.benchmark, metric.comparable)

    @classmethod
    def of_column(cls, column: Column) -> ComparisonKey:
        """Of all values in a column."""
        return cls(column.variant, column.version, column.benchmark, column.comparable)


def columns_of(runs: Sequence[RunResults]) -> list[Column]:
    """A column for each metric and comparison key, so that values of different keys are never ranked together.

    The ids of columns of one metric differ by what they differ in. Raises UserError where one version
    of a metric is best high once and low another time.
    """
    found: dict[str, dict[ComparisonKey, Column]] = {}
    for run in runs:
        for key, metric in run.metrics.items():
            same, comparison = found.setdefault(key, {}), ComparisonKey.of(run, metric)
            if comparison in same:
                if same[comparison].direction != metric.direction:
                    raise UserError(
                        f"{key}: {same[comparison].direction} is best once, {metric.direction} in {run.folder}, "
                        f"though both say version {metric.version}; score them with one version of ovi_eval"
                    )
                continue
            same[comparison] = Column(
                id=key,
                key=key,
                group=_group_of(key),
                direction=metric.direction,
                unit=metric.unit,
                kind=metric.kind,
                **asdict(comparison),
            )
    columns = [
        replace(column, id=key + _told_apart(column, list(same.values())))
        for key, same in found.items()
        for column in same.values()
    ]
    losses = dict.fromkeys(key for run in runs for key in run.losses)
    columns += [Column(f"loss/{key}", key, "losses", "lower", kind="loss") for key in losses]
    return [column for group in by_group(columns).values() for column in group]


def by_group(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """The columns of each metric group, both in the order they come."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        found.setdefault(column.group, []).append(column)
    return found


def by_benchmark(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """The columns of each benchmark, both in the order they come."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        found.setdefault(column.benchmark, []).append(column)
    return found


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
