"""Throughput of training: tokens and clips a second, MFU, peak memory, and the share of time spent waiting for data."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ovi_lab.common.sizes import GIB
from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError
from ovi_lab.planning.clip_shape import ClipShape, clips_of
from ovi_lab.planning.cluster import gpu_of_device
from ovi_lab.planning.flops import count_flops
from ovi_lab.strategies.base import strategy_of
from ovi_lab.tasks.step_log import log_directly
from ovi_lab.tasks.task import log_interval

_FETCH = "train_dataloader_next"
"""End of the profiler's name for the time in which Lightning waits for a batch."""


class Throughput(Callback):
    """Logs tokens and clips a second, MFU, peak memory, step time and the share of it spent waiting for data.

    Time is that of training alone: of each batch from its request to its end; validation,
    samples and checkpoints are left out. All is summed over the processes that see different data, and means over the
    steps since the last log. Tokens and FLOPs are those of each clip by itself: padding counts as time, not as work.
    FLOPs are counted from the configuration (`planning.flops`), recomputation not included.

    The GPU is waited for when something is logged, and before validation, not in between. A wait for data is the
    host's: of it a GPU with work in its queue may feel nothing.

    Args:
        every_n_steps: optimiser steps between logs, a multiple of the Trainer's log_every_n_steps; None: that.
        peak_tflops: of one device, for MFU; None: from the table of GPUs, and no MFU for what is not in it.

    Logged are `speed/tokens_per_s`, `speed/clips_per_s`, `speed/tflops` (of the model, all devices), `speed/mfu`,
    `speed/step_ms`, `speed/data_wait` (share of the step) and `memory/peak_gib` (of this process so far; on a CPU all
    that it has had resident). Raises UserError for values that do not fit.
    """

    def __init__(self, every_n_steps: int | None = None, peak_tflops: float | None = None) -> None:
        check_settings("throughput", locals())
        self.every_n_steps, self.peak_tflops = every_n_steps, peak_tflops
        self.latest: dict[str, float] = {}
        """What was logged last."""
        self._interval = 1
        self._timed: Any = None
        self._costs: dict[ClipShape, tuple[int, int]] = {}
        self._seen: Counter[ClipShape] = Counter()
        self._busy = self._waited = 0.0
        self._began = self._asked = 0.0
        self._last_step = self._logged_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the peak of the device and begin to time what Lightning fetches."""
        usual = log_interval(trainer)
        self._interval = self.every_n_steps or usual
        if self._interval % usual:
            raise UserError(
                f"throughput.every_n_steps is {self._interval}; expected a multiple of "
                f"trainer.log_every_n_steps={usual}, since nothing is logged in between"
            )
        device = pl_module.device
        if self.peak_tflops is None and device.type == "cuda":
            gpu = gpu_of_device(torch.cuda.get_device_name(device))
            self.peak_tflops = None if gpu is None else gpu.tflops
        self._time_fetches(trainer.profiler)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step of a resumed run, which is known by now."""
        self._last_step = self._logged_step = trainer.global_step

    def _time_fetches(self, profiler: Any) -> None:
        """Time the waits for a batch, which Lightning reports to its profiler, whichever that is."""
        if self._timed is profiler:
            return  # fitted before
        self._timed, start, stop = profiler, profiler.start, profiler.stop

        def timed_start(action: str) -> None:
            if action.endswith(_FETCH):
                self._asked = time.perf_counter()
            start(action)

        def timed_stop(action: str) -> None:
            stop(action)
            if action.endswith(_FETCH):
                self._waited += time.perf_counter() - self._asked

        profiler.start, profiler.stop = timed_start, timed_stop

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        task: Any = pl_module
        self._seen.update(clips_of({m: batch.get(m) for m in task.modalities}))
        step = trainer.global_step
        due = step != self._last_step and step % self._interval == 0
        self._last_step = step
        if due and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._busy += time.perf_counter() - self._began
        if due:
            self.latest = self._measured(trainer, pl_module, step - self._logged_step)
            log_directly(trainer, self.latest)
            self._logged_step = step
            self._seen.clear()
            self._busy = self._waited = 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the GPU: what it still computes belongs to training."""
        if trainer.training and pl_module.device.type == "cuda":
            begun = time.perf_counter()
            torch.cuda.synchronize(pl_module.device)
            self._busy += time.perf_counter() - begun

    def _measured(self, trainer: Trainer, pl_module: LightningModule, steps: int) -> dict[str, float]:
        tokens, flops = self._work(pl_module)
        own = [tokens, flops, self._seen.total(), self._busy + self._waited, self._waited]
        values = torch.tensor(own, dtype=torch.float64, device=pl_module.device)
        total: Any = trainer.strategy.reduce(values, reduce_op="sum")
        all_tokens, all_flops, clips, seconds, waited = total.tolist()
        world = trainer.world_size
        copies = strategy_of(trainer).sequence_parallel  # processes with the same clips
        each = seconds / world
        found = {
            "speed/tokens_per_s": all_tokens / copies / each,
            "speed/clips_per_s": clips / copies / each,
            "speed/tflops": all_flops / copies / each / 1e12,
            "speed/step_ms": 1e3 * each / max(1, steps),
            "speed/data_wait": waited / seconds,
            "memory/peak_gib": _peak_memory(pl_module) / GIB,
        }
        if self.peak_tflops is not None:
            found["speed/mfu"] = found["speed/tflops"] / (self.peak_tflops * world)
        return found

    def _work(self, pl_module: LightningModule) -> tuple[int, int]:
        """Tokens and FLOPs of the clips since the last log, on this process."""
        task: Any = pl_module
        model, text = task.model, task.text_encoder
        trained = text is not None and any(p.requires_grad for p in text.parameters())
        for clip in self._seen.keys() - self._costs.keys():
            work = count_flops(model, clip, text_is_trained=trained)
            self._costs[clip] = (sum(clip.tokens(model.tower_configs).values()), work.model)
        tokens, flops = (sum(n * self._costs[c][i] for c, n in self._seen.items()) for i in range(2))
        return tokens, flops


def _peak_memory(pl_module: LightningModule) -> int:
    """Bytes: the allocator's on CUDA, else all that the process has had resident."""
    if pl_module.device.type == "cuda":
        return torch.cuda.max_memory_allocated(pl_module.device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
