"""Which clips of a run are its worst and its best by a metric, and which have no value at all."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from ovi_eval.ranking.table import Column
from ovi_eval.results.files import ClipScores, RunResults


@dataclass(frozen=True)
class Ranked:
    """A clip and its value by the metric in question."""

    value: float
    clip: ClipScores


@dataclass(frozen=True)
class Extremes:
    """By one metric: the worst clips, worst first, and the best, best first; `of` clips were looked through."""

    column: Column
    worst: Sequence[Ranked]
    best: Sequence[Ranked]
    of: int


def extremes(
    run: RunResults,
    column: Column,
    count: int,
    target: float | None = None,
    among: Container[str] | None = None,
) -> Extremes | None:
    """The `count` worst and best clips of a run; fewer where there are not two times as many.

    `target` is where values are best if the column's direction is "closer_to_reference"; `among` keeps to
    clips of these ids. None where fewer than two clips have a value, all are as good, or no target is known.
    """
    if column.direction == "closer_to_reference" and target is None:
        return None
    aim = target or 0.0
    badness = {
        "higher": lambda ranked: -ranked.value,
        "lower": lambda ranked: ranked.value,
        "closer_to_reference": lambda ranked: abs(ranked.value - aim),
    }[column.direction]
    scored = [
        Ranked(value, clip)
        for clip in run.clips
        if (value := clip.values.get(column.key)) is not None and (among is None or clip.id in among)
    ]
    if len({badness(ranked) for ranked in scored}) < 2:
        return None
    ordered = sorted(scored, key=badness)
    count = min(count, len(ordered) // 2)
    return Extremes(column, ordered[::-1][:count], ordered[:count], len(ordered))


def without_value(run: RunResults) -> list[ClipScores]:
    """Clips that failed, then those to which a metric gave no value and said why."""
    lacking = [clip for clip in run.clips if clip.failed or clip.reasons]
    return sorted(lacking, key=lambda clip: clip.failed is None)
