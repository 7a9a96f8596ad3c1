"""Logging of the learning rate."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from ovi_lab.tasks.step_log import log_directly
from ovi_lab.tasks.task import steps_now


class LearningRate(Callback):
    """Logs `lr`, the rate that the step is taken with; the rates of groups with a schedule of their own as `lr/<n>`.

    Once a step, at the logger's interval (Lightning's own monitor logs with every accumulated batch).
    """

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: object
    ) -> None:
        """Read it before the schedule moves on."""
        if not steps_now(trainer) or not trainer._logger_connector.should_update_logs:
            return
        rates: dict[float, float] = {}
        for group in trainer.optimizers[0].param_groups:
            # groups that differ only in weight decay share a rate from the first step on
            rates.setdefault(float(group.get("initial_lr", group["lr"])), float(group["lr"]))
        log_directly(
            trainer, {f"lr/{number}" if number else "lr": rate for number, rate in enumerate(rates.values())}
        )
