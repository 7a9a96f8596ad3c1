"""The rehearsal's list on a real GPU: seconds, MFU, memory and waits of training at full width, and of sampling."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from ovi_lab.common.building import build
from ovi_lab.common.progress import SilentReporter
from ovi_lab.errors import UserError
from ovi_lab.planning.cluster import Cluster, gpu_of_device
from ovi_lab.planning.job import TrainingJob
from ovi_lab.planning.training_planner import TrainingPlanner
from ovi_lab.rehearsal.clips import RehearsalData
from ovi_lab.rehearsal.gpu import check_gpu
from ovi_lab.rehearsal.inference import sections
from ovi_lab.rehearsal.lines import line_of_code
from ovi_lab.rehearsal.training import prepared
from ovi_lab.runs.identity import run_config
from ovi_lab.runs.trainer import make_trainer
from ovi_lab.tasks import base

STEPS = 5
"""Of each choice: two to warm up, two that are timed, one whose waits are looked for."""
DEPTHS = (30, 24, 20, 16, 12, 8, 6, 4, 3, 2, 1)
"""Blocks that are tried, until they fit."""


def measure_training(config: DictConfig, checkpointing: str) -> dict[str, Any]:
    """One choice of activation checkpointing, with as many blocks as fit the GPU, on one process.

    Args:
        config: of the run; its strategy is replaced, as there is one GPU.
        checkpointing: of `ACTIVATION_CHECKPOINTING`.
    """
    check_gpu()
    name, memory = torch.cuda.get_device_name(0), torch.cuda.mem_get_info()[1]
    with open_dict(config):
        config.model.activation_checkpointing = checkpointing
        config.strategy = {"name": "auto", "sequence_parallel": 1}
    blocks, planner = _that_fits(config, memory)
    choice = planner.requested(1)
    predicted, flops = planner.memory(choice), planner.flops(choice)
    timed = _train(config, planner.job)
    gpu = gpu_of_device(name)
    seconds = timed.pop("seconds")
    return {
        "gpu": name, "gpu_bytes": memory, "torch": torch.__version__, "checkpointing": checkpointing,
        "blocks": blocks, "clip": str(planner.job.clip), "micro": planner.job.micro, "seconds": seconds,
        "tokens_per_s": sum(planner.job.tokens.values()) * planner.job.micro / seconds,
        "mfu": None if gpu is None else flops.model / seconds / (gpu.tflops * 1e12),
        "planned_bytes": predicted.total, **timed,
    }  # fmt: skip


def _that_fits(config: DictConfig, memory: int) -> tuple[int, TrainingPlanner]:
    """The most blocks that the plan says fit one GPU, set in the configuration. Raises UserError for none."""
    towers = [m for m in ("video", "audio") if config.model.get(m) is not None]
    asked = int(config.model[towers[0]].num_layers)
    for blocks in (n for n in DEPTHS if n <= asked):
        with open_dict(config):
            for tower in towers:
                config.model[tower].num_layers = blocks
        planner = TrainingPlanner(TrainingJob(config))
        if planner.memory(planner.requested(1)).fits(memory):
            return blocks, planner
    raise UserError("not one block of this model fits this GPU in training: give a smaller model")


class _Values:
    """Initial values drawn on the GPU: what they are changes no time, as long as they are no zeros."""

    def __init__(self, *_: Any) -> None:
        self._generator = torch.Generator("cuda").manual_seed(0)

    def __call__(self, name: str, owner: nn.Module, leaf: str, rows: slice | None = None) -> Tensor:
        shape = owner.get_parameter(leaf).shape
        if len(shape) < 2:
            value = torch.full(shape, float(leaf.endswith("weight")), device="cuda")
        else:
            value = 0.02 * torch.randn(shape, device="cuda", generator=self._generator)
        return value if rows is None else value[rows]


class _Timed(Callback):
    """Times steps 3 and 4 and looks for waits in step 5."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.waits: Counter[str] = Counter()
        self._began = 0.0
        self._watched: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        torch.cuda.synchronize()
        if trainer.global_step == 2:
            torch.cuda.reset_peak_memory_stats()
        if trainer.global_step == STEPS - 1 and self._watched is None:
            self._watched = waits_found(self.waits)
            self._watched.__enter__()
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if self._watched is not None:
            self._watched.__exit__(None, None, None)
            self._watched = None
            return
        torch.cuda.synchronize()
        if trainer.global_step > 2:
            self.seconds.append(time.perf_counter() - self._began)


@contextmanager
def waits_found(found: Counter[str]) -> Iterator[None]:
    """Within the block, counts where the host waits for the GPU, as PyTorch's synchronisation debug mode reports it."""

    def heard(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            found[line_of_code()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = heard
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _train(config: DictConfig, job: TrainingJob) -> dict[str, Any]:
    config = prepared(config, Cluster(1, 0, None, False), 1, STEPS)
    timed = _Timed()
    before = base.ParameterValues
    base.ParameterValues = _Values  # type: ignore[assignment,misc]
    try:
        with tempfile.TemporaryDirectory() as folder:
            config.run_dir = folder
            data = RehearsalData(job, STEPS)
            task = build(config.task, "task")
            plain = run_config(config)
            trainer, *_ = make_trainer(config, plain, Path(folder), "", data, task, None, SilentReporter())
            trainer.save_checkpoint = lambda *_, **__: None
            trainer.callbacks.append(timed)
            trainer.fit(task, datamodule=data)
    finally:
        base.ParameterValues = before  # type: ignore[misc]
    return {
        "seconds": min(timed.seconds),
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "waits": dict(timed.waits.most_common()),
    }


def measure_inference(config: DictConfig) -> dict[str, Any]:
    """Seconds, memory and waits of each part of sampling, the second time that it runs."""
    check_gpu()
    found = {}
    with torch.no_grad():
        for name, run in sections(config):
            run()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, began = torch.cuda.memory_allocated(), time.perf_counter()
            run()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            waits: Counter[str] = Counter()
            with waits_found(waits):
                run()
            peak = torch.cuda.max_memory_allocated() - before
            found[name] = {"seconds": seconds, "peak": peak, "waits": dict(waits.most_common())}
    return {"gpu": torch.cuda.get_device_name(0), "torch": torch.__version__, "sections": found}
