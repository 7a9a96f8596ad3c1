"""Logging of the learning rate."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer


class LearningRate(Callback):
    """Logs `lr`, the rate that the step is taken with; the rates of groups with a schedule of their own as `lr/<n>`.

    Once a step, at the logger's interval (Lightning's own monitor logs with every accumulated batch).
    """

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: object
    ) -> None:
        """Read it before the schedule moves on."""
        if trainer.fit_loop._should_accumulate():
            return  # DeepSpeed counts micro-batches itself and is asked to step after each
        if not trainer._logger_connector.should_update_logs:
            return
        rates: dict[float, float] = {}
        for group in trainer.optimizers[0].param_groups:
            # groups that differ only in weight decay share a rate from the first step on
            rates.setdefault(float(group.get("initial_lr", group["lr"])), float(group["lr"]))
        named = {f"lr/{number}" if number else "lr": rate for number, rate in enumerate(rates.values())}
        # directly: through Lightning a step would be logged again at a checkpoint
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
