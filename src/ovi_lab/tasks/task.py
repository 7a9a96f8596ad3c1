"""What a run and its callbacks need of any task, and of Lightning's Trainer where it declares less than it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ovi_lab.tasks.step_log import write_step

Observer = Callable[[Mapping[str, Any], Mapping[str, Tensor], Mapping[str, Tensor]], None]
"""Called with a training batch, its sigmas [B] and its loss, both by modality."""


class Task(LightningModule):
    """A LightningModule that reports its losses to observers, and clips by the norm that the guard has computed."""

    modalities: ClassVar[Sequence[str]] = ()
    """Of the latents that it models; none for another kind of task."""

    def __init__(self) -> None:
        super().__init__()
        self.trained_parameters = self.total_parameters = 0
        self.observers: list[Observer] = []
        """Called with every training batch."""
        self.gradient_norm: Tensor | None = None
        """Of the step under way, where the guard has computed it from whole gradients."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write what was logged with the step, behind all callbacks."""
        write_step(self.trainer)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does it, by `gradient_norm` where that is there, so that no norm is computed twice."""
        norm, self.gradient_norm = self.gradient_norm, None
        plugin: Any = self.trainer.precision_plugin
        if norm is None and gradient_clip_val and getattr(plugin, "scaler", plugin) is None:
            # Lightning refuses a fused optimiser here, which would undo a scaling that there is not
            plugin.clip_grad_by_norm(optimizer, gradient_clip_val)
            return
        if norm is None or not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grads_with_norm_(trained, gradient_clip_val, norm)


def log_interval(trainer: Trainer) -> int:
    """Optimiser steps between logs."""
    lightning: Any = trainer  # which sets log_every_n_steps without declaring it
    return max(1, int(lightning.log_every_n_steps))


def steps_now(trainer: Trainer) -> bool:
    """Whether the optimiser takes a step; DeepSpeed counts micro-batches itself and is asked to step after each."""
    return not trainer.fit_loop._should_accumulate()
