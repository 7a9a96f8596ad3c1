"""From scores to results on disk: the scores of a set of clips, with where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import Item
from ovi_eval.common.places import without_places
from ovi_eval.common.provenance import facts as where_from
from ovi_eval.results.files import ClipScores, MetricValue, RunKind, RunResults
from ovi_eval.scoring.ball_world import Score, Scored


def run_results(
    clips: ClipSet | Sequence[Item],
    scored: Scored,
    *,
    name: str,
    kind: RunKind = "measured",
    seed: int | None = None,
    config_hash: str = "",
    losses: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    benchmark: str = "",
) -> RunResults:
    """What a scorer found of `clips`, as one run's results.

    `benchmark` names the prompts or test set. `provenance` is added to what `ovi_eval.common.provenance.facts` says of
    the working directory, and wins where both have a key. Of files that reasons, notes and facts name in full only the
    last part of the name is kept.
    """
    metrics = {key: metric_value(score) for key, score in scored.values.items()}
    reasons = scored.reasons or [{}] * len(clips)
    named = _named(clips)
    rows = [
        ClipScores(
            clip,
            scored.per_clip[i],
            caption or None,
            without_places(scored.failed.get(i)),
            without_places(reasons[i]),
            named[scored.copies[i]][0] if i in scored.copies else None,
        )
        for i, (clip, caption) in enumerate(named)
    ]
    facts = {**where_from(), **(provenance or {})}
    if scored.provenance:
        facts["judges"] = scored.provenance
    return RunResults(
        name=name,
        metrics=metrics,
        n_clips=len(clips),
        seed=seed,
        kind=kind,
        clips=rows,
        losses=dict(losses or {}),
        config_hash=config_hash,
        provenance=without_places(facts),
        notes=without_places([*notes, *scored.notes]),
        benchmark=benchmark,
    )


def _named(clips: ClipSet | Sequence[Item]) -> list[tuple[str, str]]:
    """Id and caption of each clip."""
    if isinstance(clips, ClipSet):
        return list(zip(clips.ids, clips.captions, strict=True))
    return [(item.id, item.caption) for item in clips]


def metric_value(score: Score) -> MetricValue:
    """A score as a results file holds it: the fields of one name, and this file's defaults for the others."""
    score = replace(score, warnings=without_places(score.warnings))
    known = {name.name for name in fields(score)}
    return MetricValue(**{f.name: getattr(score, f.name) for f in fields(MetricValue) if f.name in known})
