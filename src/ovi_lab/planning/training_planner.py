"""Predicts a run's memory and time under each choice, and finds the least drastic choice that fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from omegaconf import OmegaConf
from torch import nn

from ovi_lab.common.paths import config_dir
from ovi_lab.errors import UserError
from ovi_lab.models.recomputation import ACTIVATION_CHECKPOINTING
from ovi_lab.planning.activations import META, Pass, PassMemory, measure, optimiser_step
from ovi_lab.planning.cluster import PER_NODE, Cluster
from ovi_lab.planning.flops import Flops, count_flops
from ovi_lab.planning.job import Checkpointing, GlobalBatch, TrainingJob
from ovi_lab.planning.memory import Memory, memory_of
from ovi_lab.planning.strategy import Sharding, Types
from ovi_lab.planning.time import EFFICIENCY, StepTime, step_time

# How much each change costs, in time, money or trouble: the least drastic set has the smallest sum.
_CHECKPOINTING_COSTS = {"none": 0.0, "matmul": 1.0, "attention": 2.0, "full": 3.0}
_MICRO_COST = 1.5
_STRATEGY_COSTS = {
    "zero1": 4.0,
    "zero2": 5.0,
    "zero3": 7.0,
    "zero2_offload": 12.0,
    "zero3_offload": 16.0,
    "zero3_nvme": 25.0,
}
_SEQUENCE_COSTS = {2: 20.0, 4: 21.0, 8: 22.0}
_GPU_COSTS = {1: 0.0, 2: 30.0, 4: 32.0, 8: 34.0}


@dataclass(frozen=True)
class Choice:
    """One set of the choices that make a run fit: strategy, checkpointing, micro-batch, number of GPUs."""

    checkpointing: Checkpointing
    micro: int
    sharding: Sharding
    gpus: int


class TrainingPlanner:
    """Predicts memory and time of one job; each pass over the model is measured once.

    Args:
        job: what is trained.
        on_cpu: training runs on a CPU: its kernels, and the optimiser parameter by parameter.
        text_tokens: of each caption; None: as many as the towers take.
    """

    def __init__(self, job: TrainingJob, on_cpu: bool = False, text_tokens: int | None = None) -> None:
        self.job, self.on_cpu, self.text_tokens = job, on_cpu, text_tokens
        self.text_is_trained = bool(job.text.trained)
        self._work = cache(self._measured)
        self._optimiser = cache(self._stepped)

    # ---- memory

    def memory(self, choice: Choice) -> Memory:
        """The memory of one GPU; UserError where the choice cannot be run at all."""
        types = Types.of(self.job.precision, choice.sharding)
        by_deepspeed = choice.sharding.name == "zero" and choice.sharding.stage == 3
        work = self._work(choice.checkpointing, choice.micro, types.network, types.autocast, by_deepspeed)
        return self._with(choice, self._share(work, choice.sharding))

    def _with(self, choice: Choice, work: PassMemory) -> Memory:
        """The memory of one GPU whose passes take `work`."""
        sharding = choice.sharding
        sharding.check(choice.gpus)
        types = Types.of(self.job.precision, sharding)
        return memory_of(
            self.job.counts,
            work,
            self._optimiser(types.master, types.weights, bool(sharding.stage)),
            sharding,
            types,
            choice.gpus,
            accumulate=self.batch(choice).accumulate,
            averaged=self.job.averaged,
            on_cpu=self.on_cpu,
            encoder_work=self.job.text.work(choice.micro),
        )

    def batch(self, choice: Choice) -> GlobalBatch:
        return self.job.batch(choice.gpus // choice.sharding.sequence_parallel, choice.micro)

    def _measured(
        self,
        checkpointing: Checkpointing,
        micro: int,
        dtype: torch.dtype,
        autocast: torch.dtype | None,
        by_deepspeed: bool,
    ) -> PassMemory:
        job, device = self.job, "cpu" if self.on_cpu else "cuda"
        work = Pass(
            job.clip,
            micro,
            device,
            autocast,
            self.text_tokens,
            self.text_is_trained,
            job.first_frame_clean,
            by_deepspeed,
        )
        return measure(job.model(checkpointing, dtype), work)

    @staticmethod
    def _share(work: PassMemory, sharding: Sharding) -> PassMemory:
        """The pass on one GPU of a sequence-parallel group: tokens inside the blocks are sharded."""
        parts = sharding.sequence_parallel
        inside = work.activations - work.outside
        saved = inside - inside // parts
        forward, activations = work.forward - saved, work.activations - saved
        late, block = work.with_gradients - saved, work.block // parts
        return PassMemory(forward, activations, late, work.outside, block, max(0, work.arriving - saved))

    def _stepped(self, master: bool, dtype: torch.dtype, flat: bool) -> tuple[int, int]:
        """Bytes that the optimiser keeps and takes for a moment, of all parameters."""
        own = torch.float32 if master else dtype
        trained = self.job.trained
        # element by element it makes no difference which tensors the values lie in, and one is quick
        one = flat or (not self.on_cpu and not self.job.config.optim.muon)
        sizes = {"all": (self.job.counts.trained,)} if one else {n: p.shape for n, p in trained.items()}
        held = {n: nn.Parameter(torch.empty(s, dtype=own, device=META)) for n, s in sizes.items()}

        def make() -> torch.optim.Optimizer:
            optimizer = self.job.optimiser(held)
            for group in optimizer.param_groups:
                if "foreach" in group and group["foreach"] is None and not group.get("fused"):
                    group["foreach"] = not self.on_cpu  # PyTorch's own choice on these devices
            return optimizer

        return optimiser_step(list(held.values()), make)

    def optimiser_state(self, choice: Choice) -> int:
        """Bytes that the optimiser keeps of all parameters, without float32 copies of weights."""
        types = Types.of(self.job.precision, choice.sharding)
        return self._optimiser(types.master, types.weights, bool(choice.sharding.stage))[0]

    # ---- time

    def flops(self, choice: Choice) -> Flops:
        return count_flops(
            self.job.model(choice.checkpointing),
            self.job.clip,
            clips=choice.micro,
            first_frame_clean=self.job.first_frame_clean,
            text_is_trained=self.text_is_trained,
        )

    def time(self, choice: Choice, cluster: Cluster, efficiency: float = EFFICIENCY) -> StepTime | None:
        """The time of a step; None where the kind of GPU is not known."""
        return step_time(
            self.flops(choice),
            self.batch(choice),
            self.job.counts,
            self.job.tokens,
            self.job.model(choice.checkpointing).tower_configs,
            choice.sharding,
            Types.of(self.job.precision, choice.sharding),
            cluster.of(choice.gpus),
            efficiency=efficiency,
            text_flops=self.job.text.flops(choice.micro),
            recomputes=choice.checkpointing.choice != "none",
        )

    # ---- what fits

    def requested(self, gpus: int) -> Choice:
        """What the configuration says."""
        settings = OmegaConf.to_container(self.job.config.strategy, resolve=False)
        return Choice(self.job.checkpointing, self.job.micro, Sharding.of(settings), gpus)  # type: ignore[arg-type]

    def what_fits(self, requested: Choice, memory: int) -> tuple[Choice, Memory] | None:
        """The least drastic change that fits, or None."""
        for choice in self.changes(requested):
            try:
                # what is held between passes is known without running one
                if not self._with(choice, PassMemory(0, 0, 0, 0)).fits(memory):
                    continue
                predicted = self.memory(choice)
            except UserError:  # the batch does not divide so
                continue
            if predicted.fits(memory):
                return choice, predicted
        return None

    def changes(self, requested: Choice) -> Iterator[Choice]:
        """Every set of changes, the least drastic first."""
        gpus = [(requested.gpus * times, cost) for times, cost in _GPU_COSTS.items()]
        choices = itertools.product(
            self._checkpointings(requested), self._micros(requested), self._shardings(requested), gpus
        )
        for each in sorted(choices, key=lambda each: sum(cost for _, cost in each)):
            yield Choice(*(value for value, _ in each))  # type: ignore[arg-type]

    def _checkpointings(self, requested: Choice) -> list[tuple[Checkpointing, float]]:
        own = requested.checkpointing
        base = _CHECKPOINTING_COSTS[own.choice]
        more = [c for c in ACTIVATION_CHECKPOINTING if _CHECKPOINTING_COSTS[c] >= max(base, 1.0)]
        changed = [(Checkpointing(c), _CHECKPOINTING_COSTS[c] - base + (own.every > 1)) for c in more]
        return [(own, 0.0), *[(c, cost) for c, cost in changed if c != own]]

    @staticmethod
    def _micros(requested: Choice) -> list[tuple[int, float]]:
        sizes, micro = [(requested.micro, 0.0)], requested.micro
        while micro > 1:
            micro //= 2
            sizes.append((micro, sizes[-1][1] + _MICRO_COST))
        return sizes

    def _shardings(self, requested: Choice) -> list[tuple[Sharding, float]]:
        own = requested.sharding
        found = [(own, 0.0)]
        if not self.job.config.optim.muon:  # which needs whole matrices
            before = _STRATEGY_COSTS["zero3" if own.name == "fsdp2" else own.file] if own.stage else 0.0
            for name, cost in _STRATEGY_COSTS.items():
                if cost > before:
                    settings = OmegaConf.load(config_dir() / "strategy" / f"{name}.yaml")
                    other = Sharding.of(OmegaConf.to_container(settings))  # type: ignore[arg-type]
                    found.append((replace(other, sequence_parallel=own.sequence_parallel), cost - before))
        shared = []
        towers = self.job.model(requested.checkpointing).tower_configs.values()
        for parts, cost in _SEQUENCE_COSTS.items():
            divides = all(config.num_heads % parts == 0 for config in towers)
            if own.sequence_parallel < parts <= min(requested.gpus, PER_NODE) and divides:
                shared += [(replace(s, sequence_parallel=parts), cost + own_cost) for s, own_cost in found]
        return [*found, *shared]

    def typed(self, choice: Choice, requested: Choice, cluster: Cluster) -> str:
        """What of a choice differs from the requested one, as typed on the command line."""
        words = []
        if choice.checkpointing.choice != requested.checkpointing.choice:
            words.append(f"model.activation_checkpointing={choice.checkpointing.choice}")
        if choice.checkpointing.every != requested.checkpointing.every:
            words.append(f"model.checkpoint_every={choice.checkpointing.every}")
        if choice.micro != requested.micro:
            words += self.job.typed_micro(choice.micro)
        if choice.sharding.file != requested.sharding.file:
            words.append(f"strategy={choice.sharding.file}")
            if "nvme" in choice.sharding.file:
                words.append("strategy.nvme_path=…")
        if choice.sharding.sequence_parallel != requested.sharding.sequence_parallel:
            words.append(f"strategy.sequence_parallel={choice.sharding.sequence_parallel}")
        if choice.gpus != requested.gpus:
            words.append(cluster.of(choice.gpus).typed)
        return " ".join(words) or "as it is"
