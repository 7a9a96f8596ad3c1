"""What training.py compares: a run as a user has it, and a plain loop of the same arithmetic."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from ovi_lab.common.paths import config_dir
from ovi_lab.common.seeding import generator_for
from ovi_lab.flow import flow_matching_loss, interpolate
from ovi_lab.optim import parameter_groups, warmup_flat_decay
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.live_memory import LiveMemory
from ovi_lab.runs.run import execute
from ovi_lab.tasks.base import noise_like

BALL = ClipShape(video=(16, 2, 2), audio=81)
"""A clip of the ball world."""
LOGGED = 10
"""Steps between logs, as in a user's run: times are of stretches of so many, each with one log."""
SIZES: dict[str, tuple[int, list[str]]] = {
    "tiny": (16, ["model=tiny"]),
    "medium": (16, ["model=tiny", *(f"model.{tower}.{setting}" for tower in ("video", "audio")
                                    for setting in ("dim=128", "num_heads=4", "ffn_dim=512", "num_layers=4"))]),
    "small": (4, ["model=small"]),
}  # fmt: skip
"""Clips a batch, and the model."""
COMMON = ["optim=adamw", "samples.every_n_steps=0", "checkpoint.every_n_steps=0", "data.num_eval=16"]


def composed(root: Path, size: str, steps: int, *overrides: str) -> DictConfig:
    """The configuration of `ovi_lab.train` for so many steps over the ball world, kept under `root`."""
    batch, model = SIZES[size]
    own = [f"data.batch_size={batch}", f"data.root={root / 'data'}", f"run_dir={root / 'run'}",
           f"data.num_train={batch * steps}", f"trainer.max_steps={steps}"]  # fmt: skip
    return compose_train([*COMMON, *model, *own, *overrides])


def compose_train(overrides: Sequence[str]) -> DictConfig:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=list(overrides))


class Plain:
    """The loop without Lightning; every draw is the run's.

    Args:
        config: as composed.
        batches: where they come from; None: the run's own loader.
        device, autocast: where and in which type it computes; the weights stay float32, as in a run.
    """

    def __init__(
        self,
        config: DictConfig,
        batches: Iterable[Mapping[str, Any]] | None = None,
        device: str = "cpu",
        autocast: torch.dtype | None = None,
    ) -> None:
        if batches is None:
            data = instantiate(config.data)
            data.prepare_data()
            data.setup("fit")
            batches = data.train_dataloader()
        self.batches = iter(batches)
        task = instantiate(config.task)
        with torch.device(device):
            task.configure_model()
        task.to(device)
        self.task = task
        self.model, self.text, self.timesteps, self.weights = (
            task.model, task.text_encoder, task.timesteps, task.loss_weights
        )  # fmt: skip
        settings = task.optimizer_settings
        groups = parameter_groups(task.named_parameters(), settings["weight_decay"], settings["muon"])
        self.optimizer = settings["factory"](groups)
        factor = warmup_flat_decay(int(config.trainer.max_steps), **task.schedule)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.trained = [p for p in task.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.trained]
        self.clip, self.decay, self.seed = config.trainer.gradient_clip_val, config.ema.decay, task.seed
        self.device, self.autocast = device, autocast
        self.steps = 0

    def step(self) -> float:
        """One step; its loss."""
        batch = next(self.batches)
        loss = self.loss(batch, (self.seed, "training", 0, self.steps))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.trained], 1 - decay)
        return float(loss.detach())

    def loss(self, batch: Mapping[str, Any], purpose: Sequence[int | str]) -> torch.Tensor:
        """Of a batch, differentiable."""
        draws = generator_for(*purpose, "timesteps", device=self.device)
        sigmas = dict(zip(("video", "audio"), self.timesteps.sample(len(batch["id"]), draws), strict=True))
        text = batch["text"] if "text" in batch else self.text(batch["caption"])
        inputs: dict[str, Any] = {}
        targets: dict[str, Any] = {}
        for m, sigma in sigmas.items():
            noise = noise_like(batch[m], generator_for(*purpose, "noise", m, device=self.device))
            inputs[m], targets[m] = interpolate(batch[m], noise, sigma)
            inputs |= {f"t_{m}": 1000.0 * sigma, f"text_{m}": text}
        with torch.autocast(self.device.partition(":")[0], self.autocast, enabled=self.autocast is not None):
            output = self.model(**inputs)
            losses = [
                self.weights[m] * flow_matching_loss(getattr(output, m), targets[m]).mean for m in sigmas
            ]
        return losses[0] + losses[1]


class Turns:
    """A run's reporter that has the plain loop take a step after each of the run's, and times both."""

    def __init__(self, plain: Plain) -> None:
        self.plain = plain
        self.losses: list[float] = []
        self.seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        self.cpu: dict[str, list[float]] = {"ours": [], "plain": []}
        """Of the processor: on a busy machine more telling than those of the clock."""
        self._at: tuple[float, float] | None = None

    def at(self, stage: str, done: int, total: int, note: str = "") -> None:
        """A step of the run has ended, but for what callbacks and log do last, which counts for its next one."""
        if stage != "training" or not done:  # 0: it begins
            return
        self._until("ours")
        self.losses.append(self.plain.step())
        self._until("plain")

    def _until(self, who: str) -> None:
        now = time.perf_counter(), time.process_time()
        if self._at is not None:
            self.seconds[who].append(now[0] - self._at[0])
            self.cpu[who].append(now[1] - self._at[1])
        self._at = now

    def close(self) -> None:
        """Nothing to close."""


class EnoughError(Exception):
    """Ends a run from within."""


class Clock:
    """A run's reporter that notes when each step ended, and most bytes alive within steps; it may end the run.

    Args:
        live: which counts them.
        last: the step after which the run ends; 0: it goes on.
    """

    def __init__(self, live: LiveMemory | None = None, last: int = 0) -> None:
        self.live, self.last = live, last
        self.ends: dict[int, float] = {}
        self.peak = 0

    def at(self, stage: str, done: int, total: int, note: str = "") -> None:
        """A step has ended."""
        if stage != "training" or not done:  # 0: it begins
            return
        self.ends[done] = time.perf_counter()
        if self.live is not None:
            if done == 2:
                self.live.peak = self.live.now  # the optimiser has its state
            self.peak = self.live.peak
        if done == self.last:
            raise EnoughError

    def close(self) -> None:
        """Nothing to close."""


def run_until(config: DictConfig, clock: Clock) -> None:
    try:
        execute(config, clock)
    except EnoughError:
        return
    raise SystemExit(f"the run ended before step {clock.last}")


def peak_of_run(config: DictConfig) -> int:
    """Most bytes of tensors alive within a step of a run, weights and the optimiser's state included."""
    with LiveMemory("cpu") as live:
        clock = Clock(live)
        execute(config, clock)
    return clock.peak


def peak_of_plain(config: DictConfig, steps: int, **where: Any) -> int:
    """The same of the plain loop."""
    with LiveMemory("cpu") as live:
        plain = Plain(config, **where)
        for _ in range(2):
            plain.step()
        live.peak = live.now
        for _ in range(steps - 2):
            plain.step()
    return live.peak
