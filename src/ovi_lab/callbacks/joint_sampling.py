"""Sampling while training goes on: by all ranks, with averaged weights, and without a trace in the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, distributed

from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.pipeline import embed_captions, generate_latents
from ovi_lab.strategies.base import strategy_of
from ovi_lab.strategies.ema import EMA
from ovi_lab.strategies.process_groups import started


@contextmanager
def set_aside(trainer: Trainer, module: LightningModule, ema: EMA | None) -> Iterator[None]:
    """Within the block the module samples; afterwards modes, weights and every random state are as before."""
    modes = {m: m.training for m in module.modules()}
    averaged = ema.applied(module) if ema is not None else nullcontext()
    with isolate_rng(), torch.no_grad(), trainer.precision_plugin.val_step_context(), averaged:
        module.eval()
        try:
            yield
        finally:
            for part, training in modes.items():
                part.training = training


def sample_together(
    trainer: Trainer,
    task: Any,
    captions: Sequence[str],
    seeds: Sequence[int],
    shapes: Mapping[str, Sequence[int]],
    settings: SamplerSettings,
    batch_size: int | None = None,
    on_clips: Callable[[int], None] | None = None,
) -> tuple[Tensor | None, Tensor | None] | None:
    """Latents of one clip per caption. Every rank calls it, within `set_aside`.

    Where a forward pass needs all ranks, as parameters are spread over them, all sample the same clips; else the clips
    are distributed. A clip is the same in both cases: its noise depends on its seed alone.

    Args:
        captions, seeds: of each clip.
        shapes: of one clip's latents, by modality.
        batch_size: clips at once; None: all.
        on_clips: told how many of this rank's clips are done.

    Returns:
        On the first rank video [N,C,F,H,W] and audio [N,L,C] on the CPU, None for a modality that was not wanted. On
        the others None.
    """
    place, places = 0, 1
    strategy = strategy_of(trainer)
    if not strategy.needs_all_ranks:
        place, places = strategy.data_place
    own = list(range(place, len(captions), places))
    size = batch_size or max(1, len(own))
    made: dict[int, tuple[Tensor | None, Tensor | None]] = {}
    for start in range(0, len(own), size):
        rows = own[start : start + size]
        texts = embed_captions(task.text_encoder, [captions[i] for i in rows], settings)
        video, audio = generate_latents(task.model, texts, [seeds[i] for i in rows], shapes, settings)
        for number, i in enumerate(rows):
            made[i] = (_kept(video, number), _kept(audio, number))
        if on_clips is not None:
            on_clips(start + len(rows))
    if places > 1 and started():
        made = _on_first(made, trainer)
    if not trainer.is_global_zero:
        return None
    video_N, audio_N = ([made[i][part] for i in range(len(captions))] for part in range(2))
    return _stacked(video_N), _stacked(audio_N)


def _kept(latents: Tensor | None, number: int) -> Tensor | None:
    return None if latents is None else latents[number].float().cpu()


def _stacked(clips: Sequence[Tensor | None]) -> Tensor | None:
    there = [clip for clip in clips if clip is not None]
    return torch.stack(there) if there else None


def _on_first(made: dict[int, Any], trainer: Trainer) -> dict[int, Any]:
    """What all ranks made, on the first one."""
    parts: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    distributed.gather_object(made, parts, dst=0)
    return {i: clip for part in parts or () for i, clip in part.items()}
