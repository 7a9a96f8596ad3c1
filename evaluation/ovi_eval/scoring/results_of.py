"""What scoring a set of clips gives, and the results on disk that are made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ovi_eval.clips.items import FAULT, Item
from ovi_eval.common.places import without_places
from ovi_eval.common.provenance import facts as where_from
from ovi_eval.results.files import ClipScores, MetricValue, RunKind, RunResults

Progress = Callable[[str, int, int], None]
"""Called with what is being scored, how many clips are done and how many there are."""


@dataclass(frozen=True)
class Scored:
    """What `scoring.runner.score_items` found.

    `values` by key; `per_clip` has for each clip, in their order, its values by key, None where it lacks one;
    `failed` says of clips, by their place, why metrics could not score them, and `reasons` has for each
    clip, in their order, what each such metric says; `provenance` is that of the extractors. `copies` has for each clip
    whose content an earlier one has, by its place, the first one's place; `notes` are for the reader.
    """

    values: dict[str, MetricValue]
    per_clip: list[dict[str, float | None]]
    failed: dict[int, str]
    provenance: dict[str, Any]
    reasons: list[dict[str, str]]
    copies: dict[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def run_results(
    items: Sequence[Item],
    scored: Scored,
    *,
    name: str,
    kind: RunKind = "measured",
    seed: int | None = None,
    config_hash: str = "",
    lineage: Sequence[str] = (),
    losses: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    benchmark: str = "",
) -> RunResults:
    """The scores of `items`, as one run's results.

    `benchmark` and `lineage` as `RunResults` has them. `provenance` is added to what `ovi_eval.common.provenance.facts`
    says of the working directory, and wins where both have a key. Of files that reasons, notes and facts name in full
    only the last part of the name is kept.
    """
    metrics = {
        key: replace(value, warnings=without_places(value.warnings)) for key, value in scored.values.items()
    }
    rows = [
        ClipScores(
            item.id,
            scored.per_clip[i],
            item.caption or None,
            without_places(scored.failed.get(i)),
            without_places(scored.reasons[i]),
            items[scored.copies[i]].id if i in scored.copies else None,
        )
        for i, item in enumerate(items)
    ]
    facts = {**where_from(), **(provenance or {}), **scored.provenance}
    return RunResults(
        name=name,
        metrics=metrics,
        n_clips=len(items),
        seed=seed,
        kind=kind,
        clips=rows,
        losses=dict(losses or {}),
        config_hash=config_hash,
        lineage=without_places(list(lineage)),
        provenance=without_places(facts),
        notes=without_places([*notes, *scored.notes]),
        benchmark=benchmark,
    )


def lost_references(
    name: str, counts: Sequence[Mapping[str, int]], reasons: Sequence[Mapping[str, str]]
) -> tuple[str, ...]:
    """A warning of the reference clips that a metric could not look at."""
    count = sum(part[name] for part in counts)
    first = next((part[name] for part in reasons if name in part), "")
    return (f"{count} reference clips could not be looked at and are left out{first}",) if count else ()


def by_reason(reasons: Mapping[str, str]) -> str:
    """A clip's reasons by metric in one line, each once."""
    metrics: dict[str, list[str]] = {}
    for name, text in reasons.items():
        metrics.setdefault(text, []).append(name)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in metrics.items())


def faults(reasons: Sequence[Mapping[str, str]], ids: Sequence[str]) -> list[str]:
    """A line for each metric that failed on clips in a way that it did not mean to."""
    found: dict[str, list[int]] = {}
    for place, why in enumerate(reasons):
        for name, text in why.items():
            if text.startswith(FAULT):
                found.setdefault(name, []).append(place)
    return [
        f"{name}: {len(places)} of {len(ids)} clips {reasons[places[0]][name]}, the first is {ids[places[0]]}; "
        "this is a fault of the metric or of a library it uses, please report it"
        for name, places in found.items()
    ]
