"""Validation at moments of our own: at the end of training, and where a kill came before it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


def validate_now(trainer: Trainer) -> None:
    """One pass over the validation set within the fit; every process calls it. Nothing where there is no set."""
    loop: Any = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    try:
        loop.run()
    finally:
        trainer.training = True


class FinalValidation(Callback):
    """Runs the validation of the fit once more at its end, for strategies whose set-up Lightning cannot repeat."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Losses of the averaged weights over all validation batches."""
        validate_now(trainer)
        self.losses = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
