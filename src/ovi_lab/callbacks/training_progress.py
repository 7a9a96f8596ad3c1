"""Progress of training and validation for the run's reporter."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ovi_lab.common.progress import Reporter
from ovi_lab.tasks.step_log import read_step
from ovi_lab.tasks.task import Task


class TrainingProgress(Callback):
    """Reports the step, and the last loss that was logged."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._loss: Any = None
        self._note = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what is trained, until there is a loss."""
        if isinstance(pl_module, Task) and pl_module.total_parameters:
            self._note = f"{pl_module.trained_parameters:,} of {pl_module.total_parameters:,} parameters"
            self.reporter.at("training", trainer.global_step, trainer.max_steps, self._note)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        read_step(trainer)  # in one copy with all else that this step logs
        loss = trainer.logged_metrics.get("train/loss")
        if loss is not None and loss is not self._loss:
            self._loss, self._note = loss, f"loss {float(loss):.3f}"
        self.reporter.at("training", trainer.global_step, trainer.max_steps, self._note)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.state.fn != "validate":
            return  # validation during training is part of it
        total = sum(int(n) for n in trainer.num_val_batches)
        batch_idx = args[2] if len(args) > 2 else 0
        self.reporter.at("validation", int(batch_idx) + 1, total)
