"""Which values may be ranked together: one column for each metric, version, variant and benchmark.

Values of different versions, variants or benchmarks of a metric, and those of a part of the clips, are in different
columns, and so are never ranked together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ovi_eval.errors import UserError
from ovi_eval.results.files import Direction, MetricKind, MetricValue, RunResults
from ovi_eval.results.metric_titles import TITLES

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
    title: str = ""
    """The metric in words, "" where none is known."""

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return ARROWS[self.direction]

    def metric_of(self, run: RunResults) -> MetricValue | None:
        """The run's metric where it belongs into this column; None for a loss."""
        metric = run.metrics.get(self.key) if self.kind != "loss" else None
        own = (self.variant, self.version, self.benchmark, self.comparable)
        return metric if metric is not None and comparison_key(run, metric) == own else None


def comparison_key(run: RunResults, metric: MetricValue) -> tuple[str, str, str, bool]:
    """Variant, version, benchmark and comparability: all must agree before two values of a metric are compared."""
    return metric.variant, metric.version, run.benchmark, metric.comparable


def columns_of(runs: Sequence[RunResults]) -> list[Column]:
    """A column for each metric and comparison key, so that values of different keys are never ranked together.

    The ids of columns of one metric differ by what they differ in. Raises UserError where one version
    of a metric is best high once and low another time.
    """
    found: dict[str, dict[tuple[str, str, str, bool], Column]] = {}
    for run in runs:
        for key, metric in run.metrics.items():
            column = Column(
                id=key,
                key=key,
                group=key.split("_")[0],  # ball/onset_f1 and ball/onset_iou belong together: ball/onset
                direction=metric.direction,
                unit=metric.unit,
                version=metric.version,
                variant=metric.variant,
                kind=metric.kind,
                benchmark=run.benchmark,
                comparable=metric.comparable,
                title=TITLES.get(key, metric.title),
            )
            first = found.setdefault(key, {}).setdefault(comparison_key(run, metric), column)
            if first.direction != metric.direction:
                raise UserError(
                    f"{key}: {first.direction} is best once, {metric.direction} in {run.folder}, "
                    f"though both say version {metric.version}; score them with one version of ovi_eval"
                )
    columns = [
        replace(column, id=key + _suffix(column, list(same.values())))
        for key, same in found.items()
        for column in same.values()
    ]
    losses = dict.fromkeys(key for run in runs for key in run.losses)
    columns += [
        Column(f"loss/{key}", key, "losses", "lower", kind="loss", title=TITLES.get(key, ""))
        for key in losses
    ]
    return [column for group in grouped(columns, "group").values() for column in group]


def grouped(columns: Sequence[Column], by: Literal["group", "benchmark"]) -> dict[str, list[Column]]:
    """The columns of each metric group or benchmark, both in the order they come."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        found.setdefault(getattr(column, by), []).append(column)
    return found


def _suffix(column: Column, same: Sequence[Column]) -> str:
    """What a column's id needs beyond the metric's name, to be the only one of that name."""
    label = ""
    if len({c.variant for c in same}) > 1:
        label += f" [{column.variant or 'no variant'}]"
    if len({c.version for c in same}) > 1:
        label += f" v{column.version}"
    if len({c.benchmark for c in same}) > 1:
        label += f" on {column.benchmark or 'no benchmark'}"
    return label if column.comparable else f"{label} (not comparable)"
