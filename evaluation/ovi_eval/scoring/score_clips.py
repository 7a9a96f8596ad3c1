"""One scoring, as `ovi-eval score` and `ovi_eval.score` ask for it: clips found, metrics chosen, all of it scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovi_eval.clips.captions import read_caption_file
from ovi_eval.clips.items import Item, MemoryItem, find_items, without_clip
from ovi_eval.common import processes
from ovi_eval.common.files import cache_folder
from ovi_eval.common.places import shareable_path
from ovi_eval.common.provenance import configuration_hash
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import ItemMetric
from ovi_eval.metrics.transcripts import read_transcripts
from ovi_eval.registry import SYNC_BY_DETECTOR, available, find, metrics_of_world
from ovi_eval.results.files import RunResults
from ovi_eval.scoring.feature_cache import FeatureCache
from ovi_eval.scoring.results_of import Progress, Scored, run_results
from ovi_eval.scoring.runner import ScoringOptions, score_items


@dataclass(frozen=True)
class Asked:
    """What is to be scored, and how; the fields are the options of `ovi-eval score`.

    Raises:
        UserError: a number is out of range, or the detector is unknown.
    """

    clips: str | Path
    reference: str | Path | None = None
    metrics: Sequence[str] | None = None
    """None: all that are available."""
    captions: str | Path | None = None
    transcripts: str | Path | None = None
    name: str | None = None
    seed: int | None = None
    benchmark: str = ""
    crops: bool = False
    detector: str = "s3fd"
    limit: int | None = None
    strict: bool = False
    device: str = "auto"
    workers: int = 1
    cache: str | Path | None = None
    no_cache: bool = False
    no_intervals: bool = False

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("workers", 0)):
            given = getattr(self, name)
            if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < least):
                raise UserError(f"{name} must be {least} or more, got {given!r}")
        if self.detector not in SYNC_BY_DETECTOR:
            raise UserError(f"detector {self.detector!r} is unknown; there are {', '.join(SYNC_BY_DETECTOR)}")


def score_clips(asked: Asked, folder: Path, step: Progress) -> tuple[RunResults, Scored, Sequence[str]]:
    """Score what is asked for.

    Args:
        folder: of the results; clips and reference below it are named by their path from there.
        step: told the progress.

    Returns:
        The results, what they were made of, and the names of metrics that were left out since they lack something.

    Raises:
        UserError: files, metrics or the device are not there, or (with `strict`) a clip cannot be scored.
    """
    # an unknown name is reported before minutes of decoding
    metrics = _find(asked.metrics, asked.crops, asked.detector) if asked.metrics is not None else None
    device = processes.device_of(asked.device)
    captions = read_caption_file(asked.captions) if asked.captions else None
    found = find_items(asked.clips, captions)
    items, notes = found.items, found.notes + without_clip(captions or {}, found.items)
    if asked.transcripts:
        notes += without_clip(read_transcripts(asked.transcripts), items, "transcripts")
    reference = None
    if asked.reference:
        real = find_items(asked.reference)
        reference, notes = real.items, notes + [f"reference: {note}" for note in real.notes]
    limit = asked.limit if asked.limit and asked.limit < len(items) else None
    if limit:
        notes.append(f"only the first {limit} of {len(items)} clips are scored: not comparable")
        items = items[:limit]
    absent: Sequence[str] = ()
    if metrics is None:
        metrics, absent = _available(items, asked.crops, reference is not None)
    how = ScoringOptions(
        device=device,
        cache=None if asked.no_cache else FeatureCache(asked.cache or cache_folder()),
        workers=asked.workers,
        resamples=not asked.no_intervals,
        strict=asked.strict,
        comparable=limit is None,
    )
    scored = score_items(items, reference, metrics, how, step)
    return _results(items, scored, asked, limit, folder, notes), scored, absent


def _find(names: Sequence[str], crops: bool, detector: str) -> list[type[ItemMetric]]:
    sync = "sync_crops" if crops else SYNC_BY_DETECTOR[detector]
    return find([sync if name in ("sync", "lse") else name for name in names])


def _available(
    items: Sequence[Item], crops: bool, reference: bool
) -> tuple[list[type[ItemMetric]], Sequence[str]]:
    """The metrics for these clips, and the names of those left out: a world's for the tensor file that its sampling
    writes, whose clips are called by the world, else the published ones.
    """
    in_memory = isinstance(items[0], MemoryItem)
    found, absent = available(
        reference, metrics_of_world(items[0].id.partition("-")[0]) if in_memory else None
    )
    found = [m for m in found if (m.name == "sync_crops") == crops or not m.name.startswith("sync")]
    if not found:
        first = next(iter(absent.values()), "")
        raise UserError(f"no metric is available here; {first}; ovi-eval metrics lists what each needs")
    return found, list(absent)


def _results(
    items: Sequence[Item],
    scored: Scored,
    asked: Asked,
    limit: int | None,
    folder: Path,
    notes: Sequence[str],
) -> RunResults:
    clips = Path(asked.clips).resolve()
    # All that numbers may depend on, but for the clips themselves.
    made = {key: [score.version, score.variant, score.preprocessing] for key, score in scored.values.items()}
    choices = {"metrics": made, "limit": limit, "crops": asked.crops, "benchmark": asked.benchmark}
    reference = shareable_path(asked.reference, folder) if asked.reference else "none"
    return run_results(
        items,
        scored,
        name=asked.name or (clips.parent.name if clips.is_file() else clips.name),
        seed=asked.seed,
        # Where files lie is private: names below the results' folder, else the folder's own name.
        provenance={"clips": shareable_path(clips, folder), "reference": reference},
        config_hash=configuration_hash(choices),
        notes=notes,
        benchmark=asked.benchmark,
    )
