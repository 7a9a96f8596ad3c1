"""From scores to results on disk: the scores of a set of clips, with where they come from."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ovi_eval import __version__
from ovi_eval.clipset import ClipSet
from ovi_eval.results import ClipScores, MetricValue, RunKind, RunResults
from ovi_eval.score import Score, Scored


def run_results(
    clips: ClipSet,
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
    """What `score_clips` found of `clips`, as one run's results. `provenance` is added to versions and
    judges.
    """
    metrics = {key: metric_value(score) for key, score in scored.values.items()}
    reasons: Sequence[Mapping[str, str]] = getattr(scored, "reasons", None) or [{}] * len(clips)
    rows = [
        ClipScores(clip, scored.per_clip[i], clips.captions[i] or None, scored.failed.get(i), reasons[i])
        for i, clip in enumerate(clips.ids)
    ]
    facts = {
        "versions": versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **(provenance or {}),
    }
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
        provenance=facts,
        notes=notes,
        benchmark=benchmark,
    )


def metric_value(score: Score) -> MetricValue:
    """A score as a results file holds it: the fields of one name, and this file's defaults for the others."""
    known = {name.name for name in fields(score)}
    return MetricValue(**{f.name: getattr(score, f.name) for f in fields(MetricValue) if f.name in known})


def versions() -> dict[str, str]:
    """What the numbers may depend on: this package, Python and the libraries that decode and compute."""
    found = {"ovi_eval": __version__, "python": platform.python_version()}
    for package in ("torch", "torchmetrics", "numpy", "scipy", "av"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
