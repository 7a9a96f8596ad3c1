"""When checkpoints are written, how many are kept, and which one is `last`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ovi_lab.errors import UserError


class RunCheckpoint(Checkpoint):
    """Writes `<run>/checkpoints/step_N` every so many steps and at the end, and points `<run>/last` at the newest.

    Args:
        run_dir: the run's folder.
        every_n_steps: optimiser steps between checkpoints; 0 writes only the last.
        keep_last: older ones are deleted; -1 keeps all.
    """

    def __init__(self, run_dir: str | Path, every_n_steps: int = 100, keep_last: int = 1) -> None:
        if keep_last == 0 or keep_last < -1 or every_n_steps < 0:
            raise UserError(
                f"checkpoint.every_n_steps={every_n_steps} and keep_last={keep_last}: expected steps >= 0, "
                "and how many to keep (-1 for all)"
            )
        self.run_dir = Path(run_dir)
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self._saved_at = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save on the interval."""
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and step not in (0, self._saved_at):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end."""
        if trainer.global_step != self._saved_at:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        path = self.run_dir / "checkpoints" / f"step_{step:06d}"
        self._saved_at = step
        trainer.save_checkpoint(path)
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
        kept = sorted((self.run_dir / "checkpoints").glob("step_*"))
        for outdated in kept[: -self.keep_last]:
            trainer.strategy.remove_checkpoint(outdated)
