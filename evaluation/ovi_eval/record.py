"""From scores to results on disk: the scores of a set of clips, with where they come from."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from ovi_eval import __version__
from ovi_eval.clipset import ClipSet
from ovi_eval.results import ClipScores, Direction, MetricKind, MetricValue, RunKind, RunResults
from ovi_eval.score import Scored


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
) -> RunResults:
    """What `score_clips` found of `clips`, as one run's results. `provenance` is added to versions and
    judges.
    """
    metrics = {
        key: MetricValue(
            value=score.value,
            n=score.n,
            direction=cast(Direction, score.direction),
            coverage=score.coverage,
            unit=score.unit,
            version=score.version,
            variant=score.variant,
            kind=cast(MetricKind, score.kind),
        )
        for key, score in scored.values.items()
    }
    rows = [
        ClipScores(clip, scored.per_clip[i], clips.captions[i] or None, scored.failed.get(i))
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
    )


def versions() -> dict[str, str]:
    """What the numbers may depend on: this package, Python and the libraries that decode and compute."""
    found = {"ovi_eval": __version__, "python": platform.python_version()}
    for package in ("torch", "torchmetrics", "numpy", "scipy", "av"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
