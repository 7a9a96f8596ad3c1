"""A few optimiser steps of a run by Lightning's Trainer, with its strategy and callbacks, on GPUs without data."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.utils._foreach_utils as foreach
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import optimizer

from ovi_lab.common.building import build
from ovi_lab.common.progress import SilentReporter
from ovi_lab.flow import Roles
from ovi_lab.planning.cluster import Cluster
from ovi_lab.planning.job import TrainingJob
from ovi_lab.rehearsal.clips import RehearsalData
from ovi_lab.rehearsal.inference import released_codec
from ovi_lab.rehearsal.record import Record
from ovi_lab.rehearsal.values import NoValues
from ovi_lab.rehearsal.watch import Watch
from ovi_lab.rehearsal.world import nodes_of, rank_zero_of
from ovi_lab.runs.identity import run_config
from ovi_lab.runs.trainer import make_trainer
from ovi_lab.tasks import base

STEPS = 3
"""The first makes the optimiser's state, the last one logs, and has first frames given where a run has some."""


@dataclass
class Step:
    """One optimiser step."""

    logs: bool
    """Whether its numbers were logged."""
    record: Record
    forward: int = 0
    """Most bytes alive until the first backward pass begins."""
    backward: int = 0
    """From there to the optimiser's step."""
    optimiser: int = 0
    after: int = 0
    """Bytes alive when the step is over."""
    alive: dict[str, int] = field(default_factory=dict)
    """Bytes at the largest of these moments, by the line that made them."""

    @property
    def most(self) -> int:
        """Most bytes alive at any moment."""
        return max(self.forward, self.backward, self.optimiser)


@dataclass
class Trained:
    """What a rehearsed run was, and did."""

    parameters: int = 0
    trained: int = 0
    placed: int = 0
    """Bytes alive once the model is placed."""
    accumulated: int = 1
    """Micro-batches of a step; `rehearsed` of them were run."""
    rehearsed: int = 1
    steps: list[Step] = field(default_factory=list)
    without_gradient: list[str] = field(default_factory=list)
    gradient_types: list[str] = field(default_factory=list)
    seconds: float = 0.0
    clean_share: float = 0.0
    """Of batches whose first video frame is given."""

    @property
    def most(self) -> int:
        """Most bytes alive at any moment once the optimiser has its state."""
        return self.largest.most

    @property
    def largest(self) -> Step:
        """The step with that moment."""
        return max(self.steps[1:], key=lambda step: step.most)

    def plain(self) -> dict[str, Any]:
        """In plain values, as a report takes it."""
        steps = [{**vars(step), "record": step.record.summary()} for step in self.steps]
        for step in steps:
            del step["alive"]
        alive = {line: size for line, size in Counter(self.largest.alive).most_common() if size >= 2**20}
        return {**vars(self), "steps": steps, "most": self.most, "alive": alive}


class _Phases(Callback):
    """Takes records and peaks at the seams of a step."""

    def __init__(self, watch: Watch, found: Trained, logs_every: int) -> None:
        self.watch, self.found, self.every = watch, found, logs_every
        self.step: Step | None = None

    def _peak(self) -> int:
        """The most bytes since the last seam; a new count begins."""
        live, step = self.watch.live, self.step
        peak = live.peak
        if step is not None and peak > step.most:
            step.alive = live.peak_origins
        live.restart()
        return peak

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.found.placed = self.watch.live.now
        roles = getattr(pl_module, "roles", Roles())
        self.found.clean_share = roles.first_frame
        self.watch.record.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if self.step is None:
            if self.found.clean_share:
                # no clip's first frame is given but in the last step, where all are: the most that a pass takes
                last = trainer.global_step == trainer.max_steps - 1
                pl_module.roles = Roles(joint=0.0, first_frame=1.0) if last else Roles()
            self.watch.live.restart()
            self.step = Step((trainer.global_step + 1) % self.every == 0, Record())

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        if self.step is not None and not self.step.forward:
            self.step.forward = self._peak()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.step is None or trainer.fit_loop._should_accumulate():
            return
        self.step.backward = self._peak()
        strategy = base.strategy_of(trainer)
        held, gradients = strategy.shares().by_name, {g.name: g.values for g in strategy.gradients()}
        self.found.without_gradient = [n for n, g in gradients.items() if g is None and held[n].count]
        self.found.gradient_types = sorted({str(g.dtype)[6:] for g in gradients.values() if g is not None})

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if self.step is None or trainer.fit_loop._should_accumulate():
            return
        self.step.optimiser, self.step.after = self._peak(), self.watch.live.now
        step, self.step = self.step, None
        step.record, self.watch.record = self.watch.record, Record()
        self.found.steps.append(step)


def prepared(
    config: DictConfig, cluster: Cluster, accumulated: int, steps: int = STEPS, samples: bool = False
) -> DictConfig:
    """The configuration of a run's rehearsal: a few steps on that cluster, nothing read and nothing scored."""
    nodes, each = nodes_of(cluster.count)
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=False))  # type: ignore[assignment]
    with open_dict(config):
        config.trainer.update(
            accelerator="gpu", devices=each, num_nodes=nodes, max_steps=steps, log_every_n_steps=steps,
            accumulate_grad_batches=accumulated, val_check_interval=None,
        )  # fmt: skip
        config.global_batch_size = None
        config.samples.update(
            every_n_steps=steps if samples else 0, steps=2, prompts=["one caption", "another"]
        )
        config.val_metrics.every_n_steps = config.checkpoint.every_n_steps = 0
        config.checkpoint.every_minutes = None
        config.logger.update(csv=True, tensorboard=False, wandb=False)
        config.init_from = {"all": None, "video": None, "audio": None}
        config.resume = None
        for place, key in (("data", "shards"), ("strategy", "nvme_path")):
            if OmegaConf.is_missing(config[place], key):
                config[place][key] = "rehearsal"
    return config


def rehearse_training(
    config: DictConfig, cluster: Cluster, job: TrainingJob, watch: Watch, most: int = 2, samples: bool = False
) -> Trained:
    """Train `STEPS` steps of at most `most` micro-batches each; with `samples`, sample after the last.

    Raises:
        UserError: the run could not be started like that.
    """
    began = time.perf_counter()
    found = Trained()
    places = cluster.count // int(config.strategy.get("sequence_parallel") or 1)
    found.accumulated = job.batch(places).accumulate
    found.rehearsed = min(most, found.accumulated)
    config = prepared(config, cluster, found.rehearsed, samples=samples)
    for types in (foreach._foreach_supported_types, optimizer._foreach_supported_types):
        if FakeTensor not in types:
            types.append(FakeTensor)  # optimisers take all tensors at once, as on a GPU
    if config.get("adapter"):
        from peft.tuners import tuners_utils

        # peft moves adapters to the meta device by calling their parameters' class, which tensors without data refuse
        tuners_utils.init_empty_weights = nullcontext
    before = base.ParameterValues
    base.ParameterValues = NoValues  # type: ignore[assignment,misc]
    try:
        with tempfile.TemporaryDirectory() as folder, rank_zero_of(cluster.count), watch.everywhere():
            config.run_dir = folder
            plain = run_config(config)
            codec = released_codec() if samples else None
            data = RehearsalData(job, STEPS * found.rehearsed, codec)
            task = build(config.task, "task")
            trainer, *_ = make_trainer(config, plain, Path(folder), "", data, task, None, SilentReporter())
            trainer.save_checkpoint = lambda *_, **__: None
            trainer.callbacks.append(_Phases(watch, found, STEPS))
            trainer.fit(task, datamodule=data)
            found.parameters, found.trained = task.total_parameters, task.trained_parameters
    finally:
        base.ParameterValues = before  # type: ignore[misc]
    found.seconds = time.perf_counter() - began
    return found
