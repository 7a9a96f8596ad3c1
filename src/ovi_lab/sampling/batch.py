"""Many clips into one folder: what is finished stays, what is missing is made, one bad row does not stop the rest.

DIR/
  <id>_seed<seed>.mp4     one a request; its metadata hold the request, so that a folder can be gone on with
  <id>_seed<seed>.png     contact sheet, where `preview` is on
  clips.jsonl             one line a finished clip (clips.rank1.jsonl, … of further processes)
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ovi_eval.common.files import written_whole
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.models.sequence_parallel import SequenceGroup
from ovi_lab.sampling.bundle import Formats
from ovi_lab.sampling.clip_files import read_record, write_clip, write_sheet
from ovi_lab.sampling.pipeline import Options, OviPipeline, Plan, plan_request
from ovi_lab.sampling.requests import BadRow, Request

ALONE = SequenceGroup(0, 1, 0, 1, None)
DECIDES = (
    "prompt", "read_as", "negative_video", "negative_audio", "seed", "size", "image_sha256", "frames",
    "audio_latents", "sampler", "model", "dtype", "weights_8bit", "weights", "ema",
    "rope_factor",
)  # fmt: skip
"""What of a record makes another clip where it differs."""
NOT_OF_SAMPLER = ("negative_video", "negative_audio", "batch_passes", "cache_text")
"""Settings that a record holds elsewhere, or that change no clip."""


@dataclass
class Outcome:
    """What became of a batch, on this process."""

    made: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """One clip to make, and its file."""

    plan: Plan
    path: Path


def plan_rows(
    requests: Sequence[Request], formats: Formats, strict: bool = False
) -> tuple[list[Plan], list[BadRow]]:
    """Plans of the requests, and those that cannot be planned. With `strict` the first of these is raised."""
    plans: list[Plan] = []
    bad: list[BadRow] = []
    for request in requests:
        try:
            plans.append(plan_request(request, formats))
        except UserError as error:
            if strict:
                raise
            bad.append(BadRow(request.name, str(error)))
    return plans, bad


def record_of(
    plan: Plan, formats: Formats, settings: SamplerSettings, options: Options, weights: Mapping[str, str]
) -> dict[str, Any]:
    """What a clip's metadata say of how it was made, in plain values."""
    from importlib.metadata import version

    request = plan.request
    sampler = {k: v for k, v in dataclasses.asdict(settings).items() if k not in NOT_OF_SAMPLER}
    sampler["skip_layers"] = list(sampler["skip_layers"])
    low = {
        "negative_video": request.negative_video,
        "negative_audio": request.negative_audio,
    }
    return {
        "id": request.name,
        "prompt": request.prompt,
        "read_as": plan.prompt,
        **{name: getattr(settings, name) if value is None else value for name, value in low.items()},
        "seed": request.seed,
        "size": list(plan.size),
        "image": request.image.name if request.image is not None else None,
        "image_sha256": plan.image_sha256,
        "frames": plan.frames,
        "fps": formats.fps,
        "audio_latents": plan.shapes["audio"][0] if "audio" in plan.shapes else 0,
        "sample_rate": formats.sample_rate,
        "sampler": sampler,
        "model": formats.name,
        "dtype": options.dtype,
        "weights_8bit": options.weights_8bit,
        "weights": dict(weights),
        **formats.facts,
        "made_by": f"ovi-lab {version('ovi-lab')}",
    }


def find_jobs(
    plans: Sequence[Plan],
    out: Path,
    record: Callable[[Plan], dict[str, Any]],
    overwrite: bool = False,
) -> tuple[list[Job], Outcome]:
    """The clips that are still to be made; the outcome holds those that are finished, and those refused.

    A finished clip is a whole file whose metadata name the same request. One that was begun or cut short is made
    again. A file of another request, or of unknown origin, is replaced with `overwrite` only.
    """
    jobs: list[Job] = []
    outcome = Outcome()
    for plan in plans:
        path = out / f"{plan.request.name}.mp4"
        if path.exists():
            wanted = record(plan)
            found, whole = read_record(path)
            changed = [k for k in DECIDES if found is not None and found.get(k) != wanted.get(k)]
            if found is not None and not changed and whole:
                outcome.kept.append(path)
                continue
            if not overwrite and (found is None or changed):
                why = f"with another {', '.join(changed)}" if changed else "by something else"
                outcome.bad.append(
                    BadRow(
                        plan.request.name,
                        f"{path} was made {why}: overwrite=true makes it again, or choose another out=",
                    )
                )
                continue
        jobs.append(Job(plan, path))
    return jobs, outcome


def agreed(jobs: list[Job], group: SequenceGroup) -> list[Job]:
    """The jobs as the first process of the group found them: all of it must make the same clips."""
    if group.group is None:
        return jobs
    names: list[Any] = [[job.path.name for job in jobs]]
    dist.broadcast_object_list(names, group=group.group, group_src=0)
    by_name = {job.path.name: job for job in jobs}
    missing = [name for name in names[0] if name not in by_name]
    if missing:
        raise UserError(
            f"processes see different files in {jobs[0].path.parent if jobs else 'out'}: {missing[0]}"
        )
    return [by_name[name] for name in names[0]]


def run_jobs(
    pipeline: OviPipeline,
    jobs: Sequence[Job],
    outcome: Outcome,
    *,
    record: Callable[[Plan], dict[str, Any]],
    log: Path,
    group: SequenceGroup = ALONE,
    enlarge_to: int = 0,
    preview: bool = False,
    strict: bool = False,
    on_step: Callable[[int, int, str], None] | None = None,
    on_bad: Callable[[BadRow], None] | None = None,
) -> Outcome:
    """Make the clips, adding to the outcome.

    Args:
        pipeline: loaded.
        jobs: of this process.
        outcome: to add to.
        record: what goes into a clip's metadata; asked for when the clip is made, since weights are hashed meanwhile.
        log: gets one line a clip.
        group: processes that share each clip; the first of them writes it.
        enlarge_to: pixels of the files' longer side; 0: as the clips are.
        preview: write a contact sheet beside each clip.
        strict: raise at the first clip that cannot be made, instead of going on with the next.
        on_step: called with steps done, steps in all (of all jobs) and the clip's name.
        on_bad: called with each clip that could not be made.

    Raises:
        UserError: with `strict`, the first clip's.
    """
    said = on_step or (lambda done, total, name: None)
    steps = pipeline.settings.steps
    for index, job in enumerate(jobs):
        name = job.plan.request.name
        begun = time.monotonic()

        def step(done: int, total: int, index: int = index, name: str = name) -> None:
            said(index * steps + done, len(jobs) * total, name)

        try:
            said(index * steps, len(jobs) * steps, name)
            if group.rank:
                pipeline.latents(job.plan, step, group)
                continue
            clip = pipeline.make(job.plan, step, group)
            if preview:
                write_sheet(job.path.with_suffix(".png"), clip.frames_THWC)
            facts = record(job.plan)
            write_clip(job.path, clip.frames_THWC, clip.fps, clip.wave_S, clip.sample_rate, facts, enlarge_to)
        except UserError as error:
            if strict:
                raise
            outcome.bad.append(BadRow(name, str(error)))
            if on_bad is not None:
                on_bad(outcome.bad[-1])
            continue
        outcome.made.append(job.path)
        add_line(log, {"file": job.path.name, **facts, "seconds": round(time.monotonic() - begun, 2)})
    return outcome


def add_line(log: Path, line: Mapping[str, Any]) -> None:
    """Append one clip's line; an earlier one of the same clip gives way. Raises UserError where it cannot be."""
    text = json.dumps(line, ensure_ascii=False) + "\n"
    kept = log.read_text(encoding="utf-8") if log.is_file() else ""
    mark = f'{{"file": {json.dumps(line["file"], ensure_ascii=False)}, '
    if mark not in kept:
        try:
            with log.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"{log}: cannot be written ({error})") from error
        return
    with written_whole(log) as temporary:
        others = [other for other in kept.splitlines(keepends=True) if not other.startswith(mark)]
        temporary.write_text("".join(others) + text, encoding="utf-8")
