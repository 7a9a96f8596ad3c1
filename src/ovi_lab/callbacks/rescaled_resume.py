"""Resuming on another number of processes: counters of batches are converted to this run's."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ovi_lab.data.loading import ClipLoader
from ovi_lab.errors import UserError
from ovi_lab.strategies.base import strategy_of

log = logging.getLogger("ovi_lab.runs")


class RescaledResume(Callback):
    """Stores on how many processes a run trains, and converts the position in the data when that has changed.

    An optimiser step sees the same clips with the same draws on any number of processes (`global_batch_size`); only the
    number of batches that a process has seen depends on it. Lightning's counters are set to whole steps, which are all
    that a checkpoint holds of a run.

    Args:
        data: the data module, whose `order()` is that of the batches; None: the task brings its own data.
        batch_size: clips a batch and process.
        by_tokens: batches hold as many clips as their tokens allow, so that no batch is a part of another.
    """

    def __init__(self, data: Any, batch_size: int = 1, by_tokens: bool = False) -> None:
        self.data, self.batch_size, self.by_tokens = data, batch_size, by_tokens

    def _now(self, trainer: Trainer) -> dict[str, int]:
        places, accumulate = strategy_of(trainer).data_place[1], int(trainer.accumulate_grad_batches)
        return {"places": places, "batch_size": self.batch_size, "accumulate": accumulate}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises UserError where validation would wait for a batch that no epoch of this run has."""
        interval: Any = trainer.val_check_interval
        if self.data is None or not isinstance(interval, int) or trainer.check_val_every_n_epoch is None:
            return
        now = self._now(trainer)
        batches = len(self.data.order(now["places"], now["accumulate"]))
        if interval > batches and trainer.limit_val_batches:
            raise UserError(
                f"trainer.val_check_interval is {interval} batches, more than the {batches} that a process takes for "
                "an epoch: lower it, or add +trainer.check_val_every_n_epoch=null to count over epochs"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises UserError where Lightning would end an epoch, and step, within a group of accumulated batches."""
        batches, accumulate = trainer.num_training_batches, int(trainer.accumulate_grad_batches)
        if batches != float("inf") and batches % accumulate:
            raise UserError(
                f"trainer.accumulate_grad_batches is {accumulate}, which does not divide the {int(batches)} batches of "
                "an epoch of this task: choose another, or another batch size"
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loader = trainer.train_dataloader
        if isinstance(loader, ClipLoader) and loader.order is not None:
            checkpoint["spread"] = {**self._now(trainer), "together": loader.order.together}
        if trainer.fit_loop._should_accumulate():
            _drop_step_under_way(checkpoint["loops"]["fit_loop"], int(trainer.accumulate_grad_batches))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count in this run's batches.

        Raises:
            UserError: the checkpoint was taken in the middle of what is one batch now.
        """
        if self.data is None:
            return
        now = self._now(trainer)
        before = checkpoint.get("spread") or now
        order = self.data.order(now["places"], now["accumulate"])
        loop = checkpoint["loops"]["fit_loop"]
        # checkpoints without `together` are of versions that gave each process a part of the whole epoch
        then, here = before.get("together", before["places"]), order.together
        if not self.by_tokens:
            then, here = then * before["batch_size"], here * now["batch_size"]
        if then != here and not order.buckets.one_bucket:
            log.warning(
                "resumed on %d processes instead of %d: clips of several shapes come in another order then, and the "
                "epoch is resumed at the same share of it",
                now["places"], before["places"],
            )  # fmt: skip
        for state in loop["state_dict"].get("combined_loader") or []:
            if isinstance(state, dict) and "position" in state:
                state["position"] = self._position(state["position"], then, here)
        progress = loop["epoch_loop.batch_progress"]
        clips_of_a_step = now["accumulate"] * now["places"] * now["batch_size"]
        accumulated = before.get("accumulate") or max(
            1, clips_of_a_step // (before["places"] * before["batch_size"])
        )
        steps, epoch = progress["current"]["ready"] // accumulated, len(order) // order.group
        if steps > epoch:  # all of an epoch's steps where it has just ended
            steps %= epoch
        _set(progress["total"], checkpoint["global_step"] * order.group)
        _set(progress["current"], steps * order.group)
        progress["is_last_batch"] = steps * order.group == len(order)
        if not progress["is_last_batch"]:
            # a checkpoint written as training ended, within an epoch, counts that epoch as complete
            for count in loop["epoch_progress"].values():
                began = count["started"] - 1
                count.update(
                    processed=min(count["processed"], began), completed=min(count["completed"], began)
                )

    def _position(self, batches: int, then: int, here: int) -> int:
        clips = batches * then
        if clips % here and not self.by_tokens:
            raise UserError(
                f"the checkpoint was taken after {clips} clips of the epoch, which {here} at once (processes times "
                "data.batch_size) do not divide: choose a smaller data.batch_size or fewer processes"
            )
        return clips // here


def _drop_step_under_way(loop: dict[str, Any], accumulated: int) -> None:
    """Counters of the fit loop in the middle of a step, as if saved at the end of the last batch of the step before."""
    progress = loop["epoch_loop.batch_progress"]
    dropped = progress["current"]["ready"] % accumulated
    for counts in (progress["total"], progress["current"]):
        batches = counts["ready"] - dropped
        counts.update(ready=batches, started=batches, processed=batches, completed=batches - 1)
    progress["is_last_batch"] = False
    # Lightning counts a step there after its last batch, and does so once more where it resumes
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def _set(progress: dict[str, int], batches: int) -> None:
    """Set a counter of batches; Lightning reads from its differences where in a batch the checkpoint was taken."""
    ready = progress["ready"]
    progress.update({name: batches - (ready - value) for name, value in progress.items()})
