"""Sampling of a trained model on its evaluation tasks: the latents of every clip.

Shapes: N clips, video latents [N, C, F, h, w], audio latents [N, L, C].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ovi_lab.common.progress import Reporter
from ovi_lab.common.seeding import seed_for
from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, noise_batch
from ovi_lab.flow.windows import sample_windows
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.runs.evaluation_tasks import EvaluationTask
from ovi_lab.sampling.pipeline import embed_captions, generate_latents

OnStep = Callable[[int, int], None]


def sampled(
    task: Any, ema: Any, evaluations: Sequence[EvaluationTask], settings: Any, reporter: Reporter
) -> list[tuple[Tensor, Tensor]]:
    """Video and audio latents of each evaluation's clips, on the CPU.

    Args:
        task: the LightningModule, with its model and text encoder.
        ema: its averaged weights, which are sampled; None samples its own.
        evaluations: what to sample.
        settings: `conf/evaluation`.
        reporter: told of the progress.
    """
    sampler = SamplerSettings(**settings.sampler)
    task.eval()
    task.model.set_audio_rope_factor(settings.rope_factor)
    done, total = 0, sum(len(each.real) for each in evaluations)

    def report(steps: int, of: int) -> None:
        reporter.at("sampling", done * of + steps * (rows.stop - rows.start), total * of)

    found: list[tuple[Tensor, Tensor]] = []
    with ema.applied(task) if ema is not None else nullcontext():
        for each in evaluations:
            made: list[tuple[Tensor, Tensor]] = []
            for start in range(0, len(each.real), settings.batch_size):
                rows = slice(start, min(start + settings.batch_size, len(each.real)))
                texts = embed_captions(task.text_encoder, list(each.real.captions[rows]), sampler)
                video, audio = _latents(task.model, each, rows, texts, settings.seed, sampler, report)
                if video is None or audio is None:
                    raise UserError("evaluation needs video and audio, and this model samples one of them")
                made.append((video.cpu(), audio.cpu()))
                done += rows.stop - rows.start
            video, audio = (torch.cat(parts) for parts in zip(*made, strict=True))
            found.append((video, audio))
    task.model.set_audio_rope_factor(None)
    return found


def _latents(
    model: Any,
    each: EvaluationTask,
    rows: slice,
    texts: Texts,
    seed: int,
    sampler: SamplerSettings,
    on_step: OnStep,
) -> tuple[Tensor | None, Tensor | None]:
    """Those of some of a task's clips. The noise of a clip is the same in every task, arm and batch."""
    clips = range(rows.start, rows.stop)
    seeds = [seed_for(seed, "evaluation clip", clip) for clip in clips]
    if each.windows is not None:
        device = texts.positive[0].device
        own = [seeds] + [
            [seed_for(seed, "evaluation clip", clip, "window", window) for clip in clips]
            for window in range(1, each.windows.count)
        ]
        noise: list[dict[Modality, Tensor]] = [
            {m: noise_batch(of_window, each.shapes[m], m).to(device) for m in MODALITIES} for of_window in own
        ]
        joined = sample_windows(model, noise, [texts], sampler, each.windows, on_step=on_step)
        return joined.video, joined.audio
    given, clean = each.given_of(rows)
    return generate_latents(
        model, texts, seeds, each.shapes, sampler, given=given, clean=clean, on_step=on_step
    )
