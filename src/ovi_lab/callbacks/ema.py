"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ovi_lab.errors import UserError


class EMA(Callback):
    """Averages every trained parameter after each optimiser step; validation and samples use the average.

    The decay is warmed up as min(decay, (1 + s) / (10 + s)) at step s, so that the first steps do not linger.

    Args:
        decay: of the average, in [0, 1); 0 keeps no history.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"ema.decay is {decay}, expected a number from 0 up to, not including, 1")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] | None = None
        self._steps_seen = 0
        self._swapped = False
        self._validation: AbstractContextManager[None] | None = None

    def _trained(self, module: LightningModule) -> dict[str, Tensor]:
        return {n: p for n, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights at hand, or from the average that a checkpoint held."""
        trained = self._trained(pl_module)
        source = self._restored or {}
        self.average = {
            n: source.get(n, p).to(device=p.device, copy=True).detach() for n, p in trained.items()
        }
        self._restored = None
        self._steps_seen = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Average once per optimiser step, not per accumulated batch."""
        step = trainer.global_step
        if step == self._steps_seen:
            return
        self._steps_seen = step
        decay = min(self.decay, (1 + step) / (10 + step))
        trained = self._trained(pl_module)
        torch._foreach_lerp_(list(self.average.values()), [trained[n].data for n in self.average], 1 - decay)

    @contextmanager
    def applied(self, module: LightningModule) -> Iterator[None]:
        """Within the block the module computes with averaged weights."""
        if self._swapped or not self.average:
            yield
            return
        trained = self._trained(module)
        raw = {n: p.data for n, p in trained.items()}
        self._swapped = True
        try:
            for name, parameter in trained.items():
                parameter.data = self.average[name]
            yield
        finally:
            for name, parameter in trained.items():
                parameter.data = raw[name]
            self._swapped = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        self._validation = self.applied(pl_module)
        self._validation.__enter__()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to the raw weights."""
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A failed validation must not leave the average in the model's place."""
        self._leave()

    def _leave(self) -> None:
        validation, self._validation = self._validation, None
        if validation is not None:
            validation.__exit__(None, None, None)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the whole averaged state dict, frozen weights included, so that it loads strictly."""
        checkpoint["ema_state_dict"] = {
            n: self.average.get(n, t).detach() for n, t in checkpoint["state_dict"].items()
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the average until training starts."""
        self._restored = checkpoint.get("ema_state_dict")
