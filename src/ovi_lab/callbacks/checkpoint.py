"""Schedule and retention of a run's checkpoints, and its link `last`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from ovi_lab.checkpoints.folder import checkpoints_of, step_of
from ovi_lab.common.values import check_settings
from ovi_lab.tasks.step_log import write_step


class RunCheckpoint(Checkpoint):
    """Writes `<run>/checkpoints/step_N` every so many steps or minutes and at the end; `<run>/last` is the newest.

    In the middle of a step that accumulates micro-batches, it writes the last whole step.

    Args:
        run_dir: the run's folder.
        every_n_steps: optimiser steps between checkpoints; 0 writes only the last.
        every_minutes: minutes after the last checkpoint when another is due (see `Preemption`); None: never.
        keep_last: older ones are deleted; -1 keeps all.
        keep_every_n_steps: those of these steps are never deleted; null: none are spared.
    """

    def __init__(
        self,
        run_dir: str | Path,
        every_n_steps: int = 100,
        every_minutes: float | None = None,
        keep_last: int = 1,
        keep_every_n_steps: int | None = None,
    ) -> None:
        check_settings("checkpoint", locals())
        self.run_dir = Path(run_dir)
        self.every_n_steps, self.every_minutes = every_n_steps, every_minutes
        self.keep_last, self.keep_every_n_steps = keep_last, keep_every_n_steps
        self._saved_at = 0
        self._clock = time.monotonic()
        self._postponed = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not save the checkpoint again that the run is resumed from."""
        self._saved_at, self._clock = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        write_step(trainer)
        step = trainer.global_step
        if self.every_n_steps and step and step % self.every_n_steps == 0 and step != self._saved_at:
            self.save_soon(trainer)

    def is_due(self, trainer: Trainer) -> bool:
        """Whether a checkpoint is due by the first process's clock; on others it never is."""
        return (
            self.every_minutes is not None
            and trainer.is_global_zero
            and trainer.global_step != self._saved_at
            and time.monotonic() - self._clock >= 60 * self.every_minutes
        )

    def validation_follows(self, trainer: Trainer) -> bool:
        """Whether this micro-batch is the last one before a validation."""
        loop: Any = trainer.fit_loop
        return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))

    def save_soon(self, trainer: Trainer) -> None:
        """Save now, or after a validation that follows: between them a kill would lose its row of the log."""
        self._postponed = self.validation_follows(trainer)
        if not self._postponed:
            self.save_now(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what waited for it."""
        if self._postponed and trainer.state.fn == TrainerFn.FITTING:
            self.save_now(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save_now(trainer)

    def save_now(self, trainer: Trainer) -> None:
        """Save the last whole step, if there is one that is not saved; every process calls it."""
        step = trainer.global_step
        if step == self._saved_at:
            return
        path = self.run_dir / "checkpoints" / f"step_{step:06d}"
        self._postponed = False
        connector = trainer._logger_connector
        if trainer.training and connector._first_loop_iter is not None:
            # this step's row must be on the disk first: a kill after the checkpoint would never make it again
            write_step(trainer)
            connector.update_train_step_metrics()
        trainer.save_checkpoint(path)
        self._saved_at, self._clock = step, time.monotonic()
        if trainer.is_global_zero:
            self._point_last(path)
            self._delete_old(trainer)

    def _point_last(self, path: Path) -> None:
        temporary = self.run_dir / f".last.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(path.relative_to(self.run_dir), target_is_directory=True)
        temporary.replace(self.run_dir / "last")

    def _delete_old(self, trainer: Trainer) -> None:
        if self.keep_last < 0:
            return
        for outdated in checkpoints_of(self.run_dir)[self.keep_last :]:
            if self.keep_every_n_steps is None or step_of(outdated) % self.keep_every_n_steps:
                trainer.strategy.remove_checkpoint(outdated)
