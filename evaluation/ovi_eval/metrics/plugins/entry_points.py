"""Metrics of other people's packages, found by their entry points."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ovi_eval.metrics.base import Extractor, ItemMean, ItemMetric, ItemSet, ValueSpec

GROUP = "ovi_eval.metrics"
OWN = "ovi_eval."


def from_packages(taken: Collection[str] = ()) -> tuple[dict[str, type[ItemMetric]], dict[str, str]]:
    """Metrics by name, and for entry points that give none, by their names, why, in one line.

    `taken`: names of metrics and of values that are in use. Whatever goes wrong in a package costs its own metrics
    and nothing else.
    """
    metrics: dict[str, type[ItemMetric]] = {}
    faults: dict[str, str] = {}
    used = set(taken)
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        try:
            found = _load(point)
            names = [name for metric in found for name in {metric.name, *(v.key for v in metric.values)}]
            again = [name for name in names if name in used or names.count(name) > 1]
            if again:
                raise TypeError(f"{again[0]} is the name of another metric or value")
        except Exception as error:  # another package's module may raise anything while it is imported
            text = " ".join(str(error).split()) or type(error).__name__
            faults[point.name] = (
                f"{_package(point)}: its entry point {point.name} = {point.value} gives no metric: {text}"
            )
            continue
        used.update(names)
        metrics |= {metric.name: metric for metric in found}
    return metrics, faults


def _load(point: EntryPoint) -> tuple[type[ItemMetric], ...]:
    """The entry point's classes. Raises TypeError for what is no metric."""
    loaded = point.load()
    classes = loaded if isinstance(loaded, tuple) else (loaded,)
    for metric in classes:
        if not (isinstance(metric, type) and issubclass(metric, ItemMean | ItemSet)):
            raise TypeError(f"{metric!r} is no class of ItemMean or ItemSet")
        for field, kind in (("name", str), ("version", str), ("values", tuple)):
            if not isinstance(getattr(metric, field, None), kind):
                raise TypeError(f"{metric.__name__} has no {field}")
        specs: tuple[Any, ...] = metric.values
        if not specs or not all(isinstance(spec, ValueSpec) for spec in specs):
            raise TypeError(f"{metric.__name__}.values must be a tuple of ValueSpec")
        extractor = getattr(metric, "extractor", None)
        if not (isinstance(extractor, type) and issubclass(extractor, Extractor)):
            raise TypeError(f"{metric.__name__}.extractor is no class of Extractor")
        if extractor.name in _own_extractors() and not extractor.__module__.startswith(OWN):
            # Cached features go by the extractor's name.
            raise TypeError(f"its extractor's name {extractor.name!r} is that of one of ovi-eval's")
    return classes


def _own_extractors() -> set[str]:
    """The names of ovi-eval's own extractors, as far as they are imported; the registry imports all."""
    names, left = set(), [Extractor]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__.startswith(OWN) and isinstance(getattr(kind, "name", None), str):
            names.add(kind.name)
    return names


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist is not None else "a package"
