"""Many clips into one folder: what is finished stays, what is missing is made, one bad row does not stop the rest.

DIR/
  <id>_seed<seed>.mp4     one a request; its metadata hold the request, so that a stopped batch can be resumed
  <id>_seed<seed>.png     contact sheet, where `preview` is on
  clips.jsonl             one line a finished clip (clips.rank1.jsonl, … of further processes)
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from ovi_eval.common.files import write_whole
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.models.sequence_parallel import SequenceGroup
from ovi_lab.sampling.bundle import Bundle, Formats
from ovi_lab.sampling.clip_files import read_record, write_clip, write_sheet
from ovi_lab.sampling.pipeline import Options, OviPipeline, Plan, plan_request
from ovi_lab.sampling.requests import BETWEEN_WINDOWS, BadRow, Request
from ovi_lab.text.lengths import CutTexts
from ovi_lab.text.prompts import check_tags

ALONE = SequenceGroup(0, 1, 0, 1, None)
DECIDES = (
    "prompt", "read_as", "negative_video", "negative_audio", "seed", "size", "image_sha256", "frames",
    "audio_latents", "sampler", "model", "dtype", "weights_8bit", "weights", "ema",
    "rope_factor", "given_sha256", "given_seconds", "keep_given", "windows",
)  # fmt: skip
"""What of a record makes another clip where it differs."""
NOT_OF_SAMPLER = ("negative_video", "negative_audio", "batch_passes", "cache_text", "cache_given")
"""Settings that a record holds elsewhere, or that change no clip."""

Item = TypeVar("Item", Request, Plan)


def plan_rows(
    requests: Sequence[Request],
    bundle: Bundle,
    settings: SamplerSettings,
    long_prompts: str = "refuse",
    strict: bool = False,
) -> tuple[list[Plan], list[BadRow]]:
    """Plans of the requests with prompts as the model reads them, and the requests that cannot be planned.

    Args:
        requests: of clips.
        bundle: whose formats decide sizes, and whose text encoder's tokenizer counts tokens.
        settings: whose negative prompts are those of requests that name none.
        long_prompts: see `ovi_lab.text.lengths`; with "cut_end" texts stay as they are here, and are cut with a warning
            where they are encoded.
        strict: raise the first that cannot be planned.

    Raises:
        UserError: there is no tokenizer; with `strict`, an image, size or text that cannot be used.
    """
    known: dict[Request, Plan] = {}

    def planned(request: Request) -> Plan:
        # files are read and hashed once for all seeds of a request
        alike = replace(request, seed=0)
        if alike not in known:
            known[alike] = plan_request(alike, bundle.formats)
        return replace(known[alike], request=request)

    plans, bad = _planned(requests, planned, strict)
    if plans and long_prompts != "cut_end":
        fit = bundle.text.length_check(long_prompts)
        plans, too_long = _planned(plans, lambda plan: _fitted(plan, settings, fit), strict)
        bad += too_long
    return plans, bad


def _planned(
    items: Iterable[Item], make: Callable[[Item], Plan], strict: bool
) -> tuple[list[Plan], list[BadRow]]:
    plans: list[Plan] = []
    bad: list[BadRow] = []
    for item in items:
        try:
            plans.append(make(item))
        except UserError as error:
            if strict:
                raise
            bad.append(BadRow(item.name, str(error)))
    return plans, bad


def _fitted(plan: Plan, settings: SamplerSettings, fit: CutTexts) -> Plan:
    texts = [fit(text) for text in plan.texts]
    for before, text in zip(plan.texts, texts, strict=True):
        if text != before:
            try:
                check_tags(text)
            except UserError as error:
                raise UserError(f"without its middle {error}; shorten the prompt") from error
    if fit.choice == "refuse":
        for text in plan.request.negatives(settings):
            fit(text)
    return replace(plan, prompt=BETWEEN_WINDOWS.join(texts))


def record_of(
    plan: Plan, formats: Formats, settings: SamplerSettings, options: Options, weights: Mapping[str, str]
) -> dict[str, Any]:
    """What a clip's metadata say of how it was made, in plain values."""
    request = plan.request
    negative_video, negative_audio = request.negatives(settings)
    sampler = {k: v for k, v in dataclasses.asdict(settings).items() if k not in NOT_OF_SAMPLER}
    sampler["skip_layers"] = list(sampler["skip_layers"])
    if settings.given_guidance == 1.0:
        del sampler["given_guidance"]  # the clips that were made before there was such a setting are the same
    return {
        "id": request.name,
        "prompt": request.prompt,
        "read_as": plan.prompt,
        "negative_video": negative_video,
        "negative_audio": negative_audio,
        "seed": request.seed,
        "size": list(plan.size),
        "image": request.image.name if request.image is not None else None,
        "image_sha256": plan.image_sha256,
        **_given_record(plan),
        **({} if plan.windows is None else {"windows": {m: list(s) for m, s in plan.windows.starts.items()}}),
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


def _given_record(plan: Plan) -> dict[str, Any]:
    """What files give of a clip, by modality: seconds, files' names and their SHA-256; nothing where none is given."""
    if plan.given is None:
        return {}
    parts, redo = plan.given.parts, plan.request.redo
    return {
        "given": {m: part.file.name for m, part in parts.items()},
        "given_sha256": {m: part.sha256 for m, part in parts.items()},
        "given_seconds": {m: [list(span) for span in part.seconds] for m, part in parts.items()},
        "keep_given": plan.request.keep_given,
        **({"redo": str(redo)} if redo is not None else {}),
    }


@dataclass
class Outcome:
    """What became of a batch, on this process."""

    made: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


class Batch:
    """The clips of one command in one folder, as one process makes them.

    Args:
        bundle, settings, options: what makes the clips; the weights are hashed from now on.
        out: the folder.
        group: processes that share each clip; the first of them writes it.
        strict: the first clip that cannot be made is an error, instead of being left out.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: SamplerSettings,
        options: Options,
        out: Path,
        group: SequenceGroup = ALONE,
        strict: bool = False,
    ) -> None:
        self.formats, self.settings, self.options = bundle.formats, settings, options
        self.out, self.group, self.strict = out, group, strict
        self.outcome = Outcome()
        self._digests = bundle.digests()

    def path(self, plan: Plan) -> Path:
        """Of the clip's file."""
        return self.out / f"{plan.name}.mp4"

    def record(self, plan: Plan) -> dict[str, Any]:
        """The clip's metadata; waits until all weights are hashed."""
        return record_of(plan, self.formats, self.settings, self.options, self._digests())

    def leave_out(self, row: BadRow) -> None:
        """Add a row to the outcome, and say so on stderr. With `strict`, raises UserError instead."""
        if self.strict:
            raise UserError(row.reason)
        self.outcome.bad.append(row)
        if self.group.rank == 0:
            print(f"left out: {row.id}: {row.reason}", file=sys.stderr, flush=True)

    def missing(self, plans: Sequence[Plan], overwrite: bool = False) -> list[Plan]:
        """The plans whose clips are still to be made; the outcome gets those that are finished or in the way.

        A clip is finished if its file holds the record of the same request. One that was begun or cut short is made
        again. A file of another request, or of unknown origin, is replaced with `overwrite` only.
        """
        missing: list[Plan] = []
        for plan in plans:
            path = self.path(plan)
            if path.exists():
                wanted = self.record(plan)
                found, complete = read_record(path)
                changed = [k for k in DECIDES if found is not None and found.get(k) != wanted.get(k)]
                if found is not None and not changed and complete:
                    self.outcome.kept.append(path)
                    continue
                if not overwrite and (found is None or changed):
                    why = f"with another {', '.join(changed)}" if changed else "by something else"
                    remedy = "overwrite=true makes it again, or choose another out="
                    self.leave_out(BadRow(plan.name, f"{path} was made {why}: {remedy}"))
                    continue
            missing.append(plan)
        return self._agreed(missing)

    def _agreed(self, plans: list[Plan]) -> list[Plan]:
        """The plans as the first process of the group found them: all of it must make the same clips."""
        if self.group.group is None:
            return plans
        names: list[Any] = [[plan.name for plan in plans]]
        dist.broadcast_object_list(names, group=self.group.group, group_src=0)
        by_name = {plan.name: plan for plan in plans}
        lacking = [name for name in names[0] if name not in by_name]
        if lacking:
            raise UserError(f"processes see different files in {self.out}: {lacking[0]}.mp4")
        return [by_name[name] for name in names[0]]

    def make(
        self,
        pipeline: OviPipeline,
        plans: Sequence[Plan],
        *,
        enlarge_to: int = 0,
        preview: bool = False,
        on_step: Callable[[int, int, str], None] = lambda done, total, name: None,
    ) -> None:
        """Make the clips, adding to the outcome.

        Args:
            pipeline: loaded.
            plans: of this process.
            enlarge_to: pixels of the files' longer side; 0: as the clips are.
            preview: write a contact sheet beside each clip.
            on_step: called with steps done, steps in all (of all clips) and the clip's name.

        Raises:
            UserError: with `strict`, the first clip cannot be made.
        """
        index = self.group.index
        log = self.out / ("clips.jsonl" if index == 0 else f"clips.rank{index}.jsonl")
        windows = [1 if plan.windows is None else plan.windows.count for plan in plans]
        steps = self.settings.steps
        for number, plan in enumerate(plans):
            path, begun = self.path(plan), time.monotonic()

            def step(done: int, _: int, number: int = number, name: str = plan.name) -> None:
                on_step(sum(windows[:number]) * steps + done, sum(windows) * steps, name)

            try:
                step(0, steps)
                if self.group.rank:
                    pipeline.latents(plan, step, self.group)
                    continue
                clip = pipeline.make(plan, step, self.group)
                if preview:
                    write_sheet(path.with_suffix(".png"), clip.frames_THWC)
                facts = self.record(plan)
                write_clip(path, clip.frames_THWC, clip.fps, clip.wave_S, clip.sample_rate, facts, enlarge_to)
            except UserError as error:
                self.leave_out(BadRow(plan.name, str(error)))
                continue
            self.outcome.made.append(path)
            add_line(log, {"file": path.name, **facts, "seconds": round(time.monotonic() - begun, 2)})


def add_line(log: Path, line: Mapping[str, Any]) -> None:
    """Append one clip's line in place of an earlier one of the same clip. Raises UserError where it cannot be."""
    text = json.dumps(line, ensure_ascii=False) + "\n"
    before = log.read_text(encoding="utf-8") if log.is_file() else ""
    mark = f'{{"file": {json.dumps(line["file"], ensure_ascii=False)}, '
    if mark not in before:
        try:
            with log.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"{log}: cannot be written ({error})") from error
        return
    kept = [entry for entry in before.splitlines(keepends=True) if not entry.startswith(mark)]
    write_whole(log, "".join(kept) + text)
