"""The rehearsal's list on a real GPU: seconds, MFU, memory and waits of training at full width, and of sampling."""

from __future__ import annotations

import gc
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig, open_dict

from ovi_lab.common.building import build
from ovi_lab.common.progress import SilentReporter
from ovi_lab.common.sizes import gib
from ovi_lab.errors import UserError
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.cluster import Cluster, gpu_of_device
from ovi_lab.planning.job import RELEASED_CLIP, TrainingJob
from ovi_lab.planning.training_planner import TrainingPlanner
from ovi_lab.rehearsal.clips import RehearsalData
from ovi_lab.rehearsal.gpu import DrawnValues, MeasuredGpu
from ovi_lab.rehearsal.inference import Bench, Section, sections
from ovi_lab.rehearsal.training import prepared
from ovi_lab.runs.identity import run_config
from ovi_lab.runs.trainer import make_trainer
from ovi_lab.tasks import base

STEPS = 5
"""Of each choice: two to warm up, two that are timed, one whose waits are looked for."""
DEPTHS = (30, 24, 20, 16, 12, 8, 6, 4, 3, 2, 1)
"""Blocks that are tried, until they fit."""


def measure_training(
    config: DictConfig, checkpointing: str, gpu: MeasuredGpu, clip: ClipShape | None = None
) -> dict[str, Any]:
    """One choice of activation checkpointing, with as many blocks as fit the GPU, on one process.

    What the plan takes to fit and does not is listed as `too_many`, and fewer blocks are tried.

    Args:
        config: of the run; its strategy is replaced, as there is one GPU.
        checkpointing: of `ACTIVATION_CHECKPOINTING`.
        gpu: what is measured.
        clip: the shape of each clip; None: from the configuration.

    Raises:
        UserError: not one block fits.
    """
    with open_dict(config):
        config.model.activation_checkpointing = checkpointing
        config.strategy = {"name": "auto", "sequence_parallel": 1}
    too_many: list[int] = []
    for blocks, planner in _that_fit(config, gpu.free, clip):
        try:
            timed = _train(config, planner.job, gpu)
        except torch.OutOfMemoryError:
            too_many.append(blocks)
        else:
            return {**_found(planner, gpu, timed), "checkpointing": checkpointing, "blocks": blocks,
                    "too_many": too_many}  # fmt: skip
        # behind the exception, whose traceback holds the model
        gc.collect()
        gpu.release()
    raise UserError(
        f"not one block of this model fits this GPU in training ({gib(gpu.free)} are free): give a smaller model"
    )


def _found(planner: TrainingPlanner, gpu: MeasuredGpu, timed: dict[str, Any]) -> dict[str, Any]:
    """What was measured, beside the plan."""
    job, choice = planner.job, planner.requested(1)
    kind, seconds = gpu_of_device(gpu.name), timed["seconds"]
    flops = planner.flops(choice).model
    return {
        "gpu": gpu.name, "gpu_bytes": gpu.memory, "torch": torch.__version__,
        "clip": str(job.clip), "micro": job.micro,
        "tokens_per_s": sum(job.tokens.values()) * job.micro / seconds,
        "mfu": None if kind is None else flops / seconds / (kind.tflops * 1e12),
        "planned_bytes": planner.memory(choice).total, **timed,
    }  # fmt: skip


def _that_fit(
    config: DictConfig, memory: int, clip: ClipShape | None
) -> Iterator[tuple[int, TrainingPlanner]]:
    """Numbers of blocks that the plan says fit one GPU, the most first; each is set in the configuration."""
    towers = [m for m in ("video", "audio") if config.model.get(m) is not None]
    asked = int(config.model[towers[0]].num_layers)
    for blocks in sorted({asked, *(n for n in DEPTHS if n < asked)}, reverse=True):
        with open_dict(config):
            for tower in towers:
                config.model[tower].num_layers = blocks
        planner = TrainingPlanner(TrainingJob(config, clip))
        if planner.memory(planner.requested(1)).fits(memory):
            yield blocks, planner


class _Timed(Callback):
    """Times steps 3 and 4 and looks for waits in step 5."""

    def __init__(self, gpu: MeasuredGpu) -> None:
        self.gpu = gpu
        self.seconds: list[float] = []
        self.waits: Counter[str] = Counter()
        self._began = 0.0
        self._watched = ExitStack()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.gpu.wait()
        if trainer.global_step == 2:
            self.gpu.forget_peaks()
        if trainer.global_step == STEPS - 1:
            self._watched.enter_context(self.gpu.waits(self.waits))
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == STEPS:
            self._watched.close()
            return
        self.gpu.wait()
        if trainer.global_step > 2:
            self.seconds.append(time.perf_counter() - self._began)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._watched.close()


def _train(config: DictConfig, job: TrainingJob, gpu: MeasuredGpu) -> dict[str, Any]:
    config = prepared(config, Cluster(1, 0, None, False), 1, STEPS)
    config.trainer.accelerator = gpu.accelerator
    timed = _Timed(gpu)
    before = base.ParameterValues
    base.ParameterValues = lambda *_: DrawnValues(gpu.device)  # type: ignore[assignment,misc]
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
    allocated, reserved = gpu.peaks()
    return {
        "seconds": min(timed.seconds),
        "peak_bytes": allocated,
        "reserved_bytes": reserved,
        "waits": dict(timed.waits.most_common()),
    }


def measure_inference(
    config: DictConfig, gpu: MeasuredGpu, clip: ClipShape = RELEASED_CLIP
) -> dict[str, Any]:
    """Seconds, memory and waits of each part of sampling; what does not fit the GPU has `failed`."""
    values = DrawnValues(gpu.device)
    bench = Bench(gpu.device, values, values.drawn, clip)
    return {"gpu": gpu.name, "torch": torch.__version__, "sections": measured(sections(config, bench), gpu)}


@torch.no_grad()
def measured(parts: Iterator[Section], gpu: MeasuredGpu) -> dict[str, dict[str, Any]]:
    """Of each part by name: seconds and bytes the second time that it runs, waits of the third."""
    found: dict[str, dict[str, Any]] = {}
    while True:
        name = "networks of the next part"
        try:
            part = next(parts, None)
            if part is None:
                return found
            name = part[0]
            found[name] = _measured(part[1], gpu)
        except torch.OutOfMemoryError as error:
            found[name] = {"failed": str(error).splitlines()[0]}
        # the next part's networks are made when this one's are gone
        part = None
        gc.collect()
        gpu.release()


def _measured(run: Any, gpu: MeasuredGpu) -> dict[str, Any]:
    run()
    gpu.wait()
    gpu.forget_peaks()
    before, began = gpu.held(), time.perf_counter()
    out = run()
    gpu.wait()
    seconds, peak = time.perf_counter() - began, gpu.peaks()[0] - before
    waits: Counter[str] = Counter()
    with gpu.waits(waits):
        run()
    return {"out": out, "seconds": seconds, "peak": peak, "waits": dict(waits.most_common())}
