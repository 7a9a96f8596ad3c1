"""An exponential moving average of the trained weights, under every strategy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ovi_lab.common.values import check_settings
from ovi_lab.strategies.base import strategy_of
from ovi_lab.strategies.shares import Shares


class EMA(Callback):
    """Averages every trained parameter after each optimiser step; validation and samples use the average.

    Each process averages what it holds: where the optimiser steps a part of a parameter in float32, that part. The
    decay is warmed up as min(decay, (1 + s) / (10 + s)) at step s, so that the first steps do not linger.

    Args:
        decay: of the average, in [0, 1); 0 keeps no history.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        check_settings("ema", {"decay": decay})
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        """This process's values of each trained parameter, flat, in float32."""
        self.shares: Shares | None = None
        self._held: list[str] = []
        """Names of the parameters of which this process holds a part."""
        self._converts = False
        self._restored: dict[str, Tensor] | None = None
        self._steps_seen = 0
        self._begun = False
        self._swapped = False
        self._validation = ExitStack()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, also in a run that is resumed at its end and trains no more: validation needs its average."""
        self._begun = False
        if not trainer.strategy.restore_checkpoint_after_setup:
            self._begin(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with what the checkpoint restored."""
        self._begin(trainer, pl_module)

    @torch.no_grad()
    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights at hand, or from the average that a checkpoint held."""
        strategy = strategy_of(trainer)
        shares, restored = strategy.shares(), strategy.load_averages()
        restored.update({n: t.reshape(-1) for n, t in (self._restored or {}).items()})
        self.average, self._converts = {}, False
        for name in shares.trained():
            own = shares.read(name)
            source = restored.get(name, own)
            self._converts |= own.dtype != torch.float32
            self.average[name] = source.to(device=own.device, dtype=torch.float32, copy=True).detach()
        self._held = [name for name, average in self.average.items() if average.numel()]
        self.shares, self._begun = shares, True
        self._steps_seen = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Average once per optimiser step, not per accumulated batch."""
        step = trainer.global_step
        if step == self._steps_seen or self.shares is None:
            return
        self._steps_seen, self._restored = step, None
        if strategy_of(trainer).discarded_at == step:
            return  # no weight has changed
        decay = min(self.decay, (1 + step) / (10 + step))
        own = [self.shares.read(name) for name in self._held]
        averages = [self.average[name] for name in self._held]
        if self._converts:
            own = [o.to(a) for o, a in zip(own, averages, strict=True)]
        torch._foreach_lerp_(averages, own, 1 - decay)

    @contextmanager
    def applied(self, module: LightningModule) -> Iterator[None]:
        """Within the block the module computes with averaged weights; of a sharded model all processes enter it."""
        if self._swapped or not self.average or self.shares is None:
            yield
            return
        self._swapped = True
        try:
            with torch.no_grad():
                self.shares.show(self.average)
            yield
        finally:
            with torch.no_grad():
                self.shares.hide()
            self._swapped = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if not self._begun:
            self._begin(trainer, pl_module)
        self._validation.enter_context(self.applied(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to the raw weights."""
        self._validation.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A failed validation must not leave the average in the model's place."""
        self._validation.close()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the whole averaged state dict, frozen weights included, so that it loads strictly.

        Sharded strategies give no state dict; they write each process's part themselves.
        """
        if checkpoint["state_dict"]:
            checkpoint["ema_state_dict"] = {
                n: self.average[n].view(t.shape) if n in self.average else t.detach()
                for n, t in checkpoint["state_dict"].items()
            }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the average until training starts."""
        self._restored = checkpoint.get("ema_state_dict")
