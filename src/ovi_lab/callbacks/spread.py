"""Resuming on another number of processes: what counted batches of one spread counts those of another."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.runs")


class Spread(Callback):
    """Stores over how many processes a run was spread, and translates the place in the data when that changes.

    An optimiser step sees the same clips with the same draws however they are dealt out (`global_batch_size`); only the
    number of batches that a process has seen depends on it.

    Args:
        batch_size: clips a batch and process.
        by_tokens: batches hold as many clips as their tokens allow, so that no batch is a part of another.
    """

    def __init__(self, batch_size: int, by_tokens: bool = False) -> None:
        self.batch_size, self.by_tokens = batch_size, by_tokens

    def _now(self, trainer: Trainer) -> dict[str, int]:
        strategy: Any = trainer.strategy
        places = strategy.data_place[1] if hasattr(strategy, "data_place") else trainer.world_size
        return {"places": int(places), "batch_size": self.batch_size}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """How it is spread now."""
        checkpoint["spread"] = self._now(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count in this run's batches.

        Raises:
            UserError: the checkpoint was taken in the middle of what is one batch now.
        """
        before, now = checkpoint.get("spread"), self._now(trainer)
        if before is None or before == now:
            return
        then, here = before["places"] * before["batch_size"], now["places"] * now["batch_size"]
        loop = checkpoint["loops"]["fit_loop"]
        states = loop["state_dict"].get("combined_loader") or []
        if self.by_tokens:
            log.warning(
                "resumed on %d processes instead of %d: with data.tokens_per_batch the order of batches differs, and "
                "the epoch goes on at the same share of it",
                now["places"], before["places"],
            )  # fmt: skip
            then, here = before["places"], now["places"]
        for state in states:
            if isinstance(state, dict) and "position" in state:
                state["position"] = self._position(state["position"], then, here)
        progress = loop["epoch_loop.batch_progress"]
        for span in ("total", "current"):
            # Lightning tells by their differences where in a batch the checkpoint was taken
            ready = progress[span]["ready"]
            progress[span] = {k: ready * then // here - (ready - v) for k, v in progress[span].items()}

    def _position(self, batches: int, then: int, here: int) -> int:
        clips = batches * then
        if clips % here and not self.by_tokens:
            raise UserError(
                f"the checkpoint was taken after {clips} clips of the epoch, which {here} at once (processes times "
                "data.batch_size) do not divide: choose a smaller data.batch_size or fewer processes"
            )
        return clips // here
