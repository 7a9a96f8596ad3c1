"""Sampling during training: by all ranks, with averaged weights, and without a trace in the training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, distributed

from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.pipeline import decode_latents, embed_captions, generate_latents
from ovi_lab.strategies.base import strategy_of
from ovi_lab.strategies.ema import EMA
from ovi_lab.strategies.process_groups import alone_on_first, started
from ovi_lab.text import StoredText


class SamplesInTraining(Callback, ABC):
    """Base of the callbacks that sample every so many optimiser steps, with the averaged weights.

    Args:
        data: the data module.
        ema: where the averaged weights are; None samples the raw ones.
        every_n_steps: how often `sample` is called.
    """

    def __init__(self, data: Any, ema: EMA | None, every_n_steps: int) -> None:
        self.data, self.ema, self.every_n_steps = data, ema, every_n_steps
        self._last_step = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step != self._last_step and step % self.every_n_steps == 0:
            with set_aside(trainer, pl_module, self.ema):
                finish = self.sample(trainer, pl_module, step)
                if finish is not None:
                    alone_on_first(finish)
        self._last_step = step

    def check_texts(self, task: Any, captions: Sequence[str], settings: SamplerSettings) -> None:
        """Raises UserError, before any step, where the task cannot embed what is to be sampled."""
        encoder = getattr(task, "text_encoder", None)
        if encoder is None:
            raise UserError(
                "sampling during training needs a text encoder: store the embeddings of its texts (ovi-data embed) "
                "and set text=stored text.embeddings=FILE, or set samples.every_n_steps=0 and "
                "val_metrics.every_n_steps=0"
            )
        if isinstance(encoder, StoredText):
            encoder.check([*captions, settings.negative_video, settings.negative_audio])

    @abstractmethod
    def sample(self, trainer: Trainer, task: Any, step: int) -> Callable[[], None] | None:
        """Called on all ranks after optimiser step `step`, within `set_aside`.

        Returns:
            On all ranks the rest of the work, which the first rank does while the others wait without a timeout
            (decoding, writing, scoring); or on all ranks None.
        """


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
    data: Any,
    captions: Sequence[str],
    seeds: Sequence[int],
    settings: SamplerSettings,
    batch_size: int | None = None,
    on_clips: Callable[[int], None] | None = None,
) -> list[tuple[Tensor | None, ...]]:
    """The latents of one clip per caption. Every rank calls it, within `set_aside`.

    Where a forward pass needs all ranks, as parameters are sharded over them, all sample the same clips; else the clips
    are distributed. A clip is the same in both cases: its noise depends on its seed alone.

    Args:
        data: the data module, whose `latent_shapes` are those of a clip.
        captions, seeds: of each clip.
        batch_size: clips at once; None: all.
        on_clips: called with the number of this rank's clips that are done.

    Returns:
        On the first rank video [C,F,h,w] and audio [L,C] of each clip, None for a modality that the task lacks; on the
        others nothing.
    """
    shapes = {m: shape for m, shape in data.latent_shapes.items() if m in task.modalities}
    place, places = 0, 1
    strategy = strategy_of(trainer)
    if not strategy.needs_all_ranks:
        place, places = strategy.data_place
    own = list(range(place, len(captions), places))
    size = batch_size or max(1, len(own))
    made: dict[int, tuple[Tensor | None, ...]] = {}
    for start in range(0, len(own), size):
        rows = own[start : start + size]
        texts = embed_captions(task.text_encoder, [captions[i] for i in rows], settings)
        video, audio = generate_latents(task.model, texts, [seeds[i] for i in rows], shapes, settings)
        for number, i in enumerate(rows):
            made[i] = tuple(None if x is None else x[number].float().cpu() for x in (video, audio))
        if on_clips is not None:
            on_clips(start + len(rows))
    if places > 1 and started():
        made = _on_first(made, trainer)
    return [made[i] for i in range(len(captions))] if trainer.is_global_zero else []


def decoded(latents: Sequence[tuple[Tensor | None, ...]], codec: Any) -> tuple[Tensor, Tensor]:
    """Frames [N,T,H,W,3] and waves [N,S] of what `sample_together` gave."""
    video_N, audio_N = zip(*latents, strict=True)
    return decode_latents(codec.video, codec.audio, _stacked(video_N), _stacked(audio_N), codec.fps)


def _stacked(clips: Sequence[Tensor | None]) -> Tensor | None:
    there = [clip for clip in clips if clip is not None]
    return torch.stack(there) if there else None


def _on_first(made: dict[int, Any], trainer: Trainer) -> dict[int, Any]:
    """What all ranks made, on the first one."""
    parts: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    distributed.gather_object(made, parts, dst=0)
    return {i: clip for part in parts or () for i, clip in part.items()}
