"""A trace of a few training steps for https://ui.perfetto.dev: what host and GPU did when, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from ovi_eval.common.files import written_whole
from ovi_lab.common.values import check_settings


class TorchProfile(Callback):
    """Records whole optimiser steps by torch.profiler, and writes them as a trace that Perfetto and Chrome open.

    Args:
        run_dir: of the run; the trace of process 0 is `profile/rank_00000.json.gz`.
        skip: steps before the first that is recorded: in them kernels are chosen, memory is taken, blocks are compiled.
        steps: that are recorded.
        shapes: with the shapes that operations are given.
        memory: with the memory that they take and free.
        stacks: with the lines of Python that called them, which makes steps slower and traces large.
        all_ranks: a trace of every process, not of the first alone.

    Steps that are not recorded run as without it. A run that ends earlier writes what it has.
    """

    def __init__(
        self,
        run_dir: str | Path,
        skip: int = 5,
        steps: int = 2,
        shapes: bool = False,
        memory: bool = False,
        stacks: bool = False,
        all_ranks: bool = False,
    ) -> None:
        check_settings("profiler", locals())
        self.folder = Path(run_dir) / "profile"
        self.skip, self.steps, self.all_ranks = skip, steps, all_ranks
        self._recorded: dict[str, Any] = {
            "record_shapes": shapes,
            "profile_memory": memory,
            "with_stack": stacks,
        }
        self._profile: profile | None = None
        self._first = 0
        self._done = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step of a resumed run."""
        self._first = trainer.global_step + self.skip
        self._done = trainer.global_rank != 0 and not self.all_ranks

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._done or self._profile is not None or trainer.global_step < self._first:
            return
        kinds = [ProfilerActivity.CPU]
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
            kinds.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=kinds, **self._recorded)
        self._profile.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._profile is not None and trainer.global_step >= self._first + self.steps:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._profile is not None:
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._profile is not None
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._profile.stop()
        with written_whole(self.folder / f"rank_{trainer.global_rank:05d}.json.gz") as temporary:
            compressed = temporary.with_suffix(".json.gz")  # the ending by which PyTorch compresses
            self._profile.export_chrome_trace(str(compressed))
            compressed.replace(temporary)
        self._profile, self._done = None, True
