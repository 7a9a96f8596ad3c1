"""The whole validation set at the end of training, before the processes part."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class FinalValidation(Callback):
    """Runs the validation of the fit once more at its end, for strategies whose set-up Lightning cannot repeat."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Losses of the averaged weights over all validation batches."""
        loop: Any = trainer.fit_loop.epoch_loop.val_loop
        trainer.validating = True
        try:
            loop.run()
        finally:
            trainer.training = True
        self.losses = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
