"""A comparison of two models in words: why a metric was not compared, and what to know of one that was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovi_eval.ranking.columns import Column
from ovi_eval.ranking.ranks import copies_of
from ovi_eval.ranking.table import Row, values_of
from ovi_eval.results.files import MetricValue, RunResults
from ovi_eval.stats.differences import Difference


@dataclass(frozen=True)
class Side:
    """One of the two models. `label` is what messages call it: its name, or its files where both have one name."""

    label: str
    files: Sequence[str]
    row: Row


def why_not_compared(a: Side, b: Side, same: Sequence[Column]) -> str:
    """Why a metric has no column that both sides can be compared in."""
    if same[0].kind == "loss":
        return f"only {(a if values_of(a.row, same[0]) else b).label} has this loss"
    having = {side.label: _metrics(side.row, same[0].key) for side in (a, b)}
    for label, metrics in having.items():
        if not metrics:
            other = b.label if label == a.label else a.label
            return f"only {other} has it"
        if all(metric.value is None for _, metric in metrics):
            return f"no clip of {label} could be scored"
    apart = []
    for name in ("version", "variant", "benchmark"):
        of_a, of_b = (_field(name, metrics) for metrics in having.values())
        if of_a != of_b:
            apart.append(f"{name} is {of_a} in {a.label} and {of_b} in {b.label}")
    if apart:
        return f"{', '.join(apart)}; score both in the same way"
    part = [label for label, metrics in having.items() if all(not m.comparable for _, m in metrics)]
    if part:
        return f"the value of {' and of '.join(part)} is of a part of the clips and not comparable; score all clips"
    return f"{a.label} and {b.label} have it in no version, variant and benchmark in common"


def why_column_not_compared(a: Side, b: Side, column: Column) -> str:
    """Why one column of a metric that is compared in another is not."""
    if not column.comparable:
        return "is of a part of the clips and not comparable"
    having = [side.label for side in (a, b) if values_of(side.row, column)]
    return f"only {having[0]} has it" if having else "no clip could be scored"


def _metrics(row: Row, key: str) -> list[tuple[RunResults, MetricValue]]:
    return [(run, run.metrics[key]) for run in row.runs if key in run.metrics]


def _field(name: str, metrics: Sequence[tuple[RunResults, MetricValue]]) -> str:
    texts = [run.benchmark if name == "benchmark" else str(getattr(metric, name)) for run, metric in metrics]
    return " and ".join(repr(text) if text else "not named" for text in dict.fromkeys(texts))


def some_names(clips: Mapping[Any, Mapping[str, float]]) -> str:
    """The first two clips' ids and how many more there are."""
    names = sorted({clip for of_run in clips.values() for clip in of_run})
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def notes_on_metric(
    a: Side,
    b: Side,
    column: Column,
    found: Difference,
    clips: tuple[Mapping[Any, Mapping[str, float]] | None, Mapping[Any, Mapping[str, float]] | None],
) -> list[str]:
    """What to know of the difference in one column. `clips`: the values of either side by seed and clip."""
    notes = []
    if found.n_clips is not None:
        names_a, names_b = ({clip for of_run in (of or {}).values() for clip in of_run} for of in clips)
        for side, lone in ((a, names_a - names_b), (b, names_b - names_a)):
            if lone:
                notes.append(f"{len(lone)} clips of {side.label} have no partner and are left out")
        if (units := copies_of(a.row, b.row, column)) is not None:
            common = names_a & names_b
            if (same := len(common) - len({units.get(clip, clip) for clip in common})) > 0:
                notes.append(f"{same} clips are copies by content of others on both sides and count once")
    elif column.kind == "mean":
        notes.append("compared as whole values: not both sides have values per clip whose mean it is")
    covered = [min((m.coverage for _, m in _metrics(side.row, column.key)), default=1.0) for side in (a, b)]
    if column.kind != "loss" and min(covered) < 1:
        shares = (f"{side.label} {100 * share:.3g} %" for side, share in zip((a, b), covered, strict=True))
        notes.append(f"coverage: {', '.join(shares)} of the clips have a value")
    if found.test.p is None:
        notes.append("nothing says how sure the difference is: score more seeds, or with an interval")
    elif found.interval is not None and "independent" in found.interval.method:
        notes.append(
            "taken as independent: with prompts or a reference in common the interval is if anything too wide"
        )
    for side in (a, b):
        metrics = _metrics(side.row, column.key) if column.kind != "loss" else []
        warnings = dict.fromkeys(warning for _, metric in metrics for warning in metric.warnings)
        notes += [f"{side.label}: {warning}" for warning in warnings]
    return notes


def notes_on_scoring(a: Side, b: Side) -> list[str]:
    """What may move numbers though no metric's version differs: other decoders, another ovi_eval."""
    notes = []
    for name, plural, keys in (("decoder", "decoders", None), ("versions", "versions", ("ovi_eval",))):
        of_a, of_b = (_facts(side.row, name, keys) for side in (a, b))
        apart = [key for key in {**of_a, **of_b} if of_a.get(key) != of_b.get(key)]
        if of_a and of_b and apart:
            words = ", ".join(f"{key} {of_a.get(key, 'none')} and {of_b.get(key, 'none')}" for key in apart)
            notes.append(f"{a.label} and {b.label} were scored with other {plural}: {words}")
    return notes


def _facts(row: Row, name: str, keys: Sequence[str] | None) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for run in row.runs:
        facts = run.provenance.get(name)
        for key, value in facts.items() if isinstance(facts, Mapping) else ():
            if keys is None or key in keys:
                found.setdefault(str(key), []).append(str(value))
    return {key: "/".join(dict.fromkeys(values)) for key, values in found.items()}
