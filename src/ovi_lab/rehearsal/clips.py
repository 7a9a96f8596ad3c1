"""Batches of one clip's shapes, through the project's own prefetching, in place of the run's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from ovi_lab.data.prefetch import Prefetcher
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.job import TrainingJob


class _Batches:
    """The same batch so many times, read ahead and moved to the GPU as `ClipLoader` does."""

    def __init__(self, batch: Mapping[str, Any], count: int, device: torch.device) -> None:
        self.batch, self.count, self.device = batch, count, device

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        source = (dict(self.batch) for _ in range(self.count))
        with Prefetcher(source, 2, self.device) as batches:
            yield from batches


class RehearsalData(LightningDataModule):
    """What callbacks and Trainer ask of `OviDataModule`, without clips.

    Args:
        job: whose latents a clip has.
        batches: of the run.
        codec: decodes samples in training; None: there are none.
        texts: tokens of the captions, in turn.
    """

    has_eval = False

    def __init__(
        self, job: TrainingJob, batches: int, codec: Any = None, texts: Sequence[int] = (120, 77)
    ) -> None:
        super().__init__()
        self.job, self.count, self.codec = job, batches, codec
        model = job.model(job.checkpointing)
        towers = model.tower_configs
        clip: ClipShape = job.clip
        self.latent_shapes: dict[str, tuple[int, ...]] = {}
        if clip.video is not None:
            self.latent_shapes["video"] = (towers["video"].in_dim, *clip.video)
        if clip.audio is not None:
            self.latent_shapes["audio"] = (clip.audio, towers["audio"].in_dim)
        first = next(iter(towers.values()))
        self.text = [min(n, first.text_len) for n in texts], first.text_dim
        self.limit_batches = 1.0

    def fingerprint(self) -> str:
        return "rehearsal"

    def codec_file(self) -> None:
        """None: there is nothing to copy into checkpoints."""

    def train_dataloader(self) -> _Batches:
        clips = self.job.micro
        lengths, width = self.text
        batch: dict[str, Any] = {
            "id": [str(n) for n in range(clips)],
            "caption": ["a caption"] * clips,
            "meta": [{}] * clips,
            "text": [torch.zeros(lengths[n % len(lengths)], width) for n in range(clips)],
            **{m: torch.zeros(clips, *shape) for m, shape in self.latent_shapes.items()},
        }
        trainer: Any = self.trainer
        return _Batches(batch, self.count, trainer.strategy.root_device)
