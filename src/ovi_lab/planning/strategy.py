"""A strategy's configuration as planning reads it: what is sharded, where it is kept, in which types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ovi_lab.errors import UserError

Place = Literal["device", "cpu", "nvme"]

MAX_LIVE = 1_000_000_000
"""Values that ZeRO 3 gathers at once at most (its stage3_max_live_parameters, as `ZeroStrategy` sets it)."""
AHEAD = 4
"""It gathers ahead a bucket divided by this at once (its stage3_prefetch_bucket_size, as `ZeroStrategy` sets it)."""
PERSISTENT = 100_000
"""Smaller parameters stay gathered (stage3_param_persistence_threshold, DeepSpeed's default)."""
CPU_BUCKET = 5_000_000
"""On a CPU `ZeroStrategy` takes no larger buckets."""


@dataclass(frozen=True)
class Sharding:
    """How a run is sharded over its processes.

    `stage` counts as DeepSpeed's: sharded is nothing (0: one process, DDP), optimiser state (1), gradients
    too (2), parameters too (3: ZeRO 3, FSDP2).
    """

    name: str = "auto"
    """auto, ddp, zero or fsdp2."""
    stage: int = 0
    optimiser_at: Place = "device"
    parameters_at: Place = "device"
    bucket: int = 200_000_000
    reshard: bool = True
    """Whether gathered parameters are freed between forward and backward (stage 3)."""
    sequence_parallel: int = 1
    full_gradients: bool = True
    """Whether ZeRO accumulates gradients in float32 whatever the network computes in."""
    within: int | None = None
    """Processes that share the parameters (FSDP2), or a second copy of them (ZeRO 3); None: all, or there is none."""
    kept: str | None = None
    """The tower whose blocks stay gathered for a whole step."""

    def shared_by(self, gpus: int) -> int:
        """Processes over which what is sharded is distributed."""
        if not self.stage:
            return 1
        return min(gpus, self.within or gpus) if self.name == "fsdp2" else gpus

    @property
    def file(self) -> str:
        """The file in conf/strategy, as typed on the command line."""
        if self.name != "zero":
            return self.name
        places = (self.optimiser_at, self.parameters_at)
        suffix = "_nvme" if "nvme" in places else "_offload" if "cpu" in places else ""
        return f"zero{self.stage}{suffix}"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Sharding:
        """The sharding of a `strategy` configuration; UserError for a name that planning does not know."""
        name = str(settings.get("name"))
        sequence = int(settings.get("sequence_parallel") or 1)
        if name in ("auto", "ddp"):
            return cls(name, sequence_parallel=sequence)
        if name == "fsdp2":
            place: Place = "cpu" if settings.get("offload") else "device"
            reshard = bool(settings.get("reshard_after_forward", True))
            return cls(name, 3, place, place, 0, reshard, sequence, True, *_within(settings))
        if name != "zero":
            raise UserError(f"strategy.name is {name!r}; expected one of auto, ddp, zero, fsdp2")
        return cls(
            name,
            int(settings["stage"]),
            settings.get("offload_optimizer") or "device",
            settings.get("offload_parameters") or "device",
            int(settings.get("bucket") or 0),
            True,
            sequence,
            settings.get("gradient_dtype", "fp32") is not None,
            *_within(settings),
        )

    def check(self, gpus: int) -> None:
        """Raises UserError where the processes cannot be divided so."""
        if gpus % self.sequence_parallel:
            raise UserError(
                f"strategy.sequence_parallel is {self.sequence_parallel} with {gpus} GPUs; "
                "expected a divisor of their number"
            )


@dataclass(frozen=True)
class Types:
    """The types that a strategy keeps and computes with under a Trainer's `precision`."""

    weights: torch.dtype
    """Type of the parameters on the device between passes."""
    network: torch.dtype
    """Type of the parameters that the network computes with."""
    autocast: torch.dtype | None
    master: bool
    """Whether the optimiser steps a float32 copy."""
    gradients: torch.dtype
    """In which gradients are accumulated."""

    @classmethod
    def of(cls, precision: str, sharding: Sharding) -> Types:
        """UserError for a precision that planning does not know."""
        precision = str(precision)
        known = ("32", "32-true", "bf16", "bf16-mixed", "bf16-true")
        if precision not in known:
            raise UserError(f"trainer.precision is {precision!r}; planning knows {', '.join(known)}")
        full, half = torch.float32, torch.bfloat16
        lower = precision.startswith("bf16")
        if sharding.name == "zero":
            own = half if lower else full
            return cls(own, own, None, True, full if sharding.full_gradients else own)
        if precision == "bf16-true":
            return cls(half, half, None, False, half)
        if sharding.name == "fsdp2":
            return cls(full, half if lower else full, None, False, full)
        return cls(full, full, half if lower else None, False, full)


def _within(settings: Mapping[str, Any]) -> tuple[int | None, str | None]:
    return settings.get("shard_within"), settings.get("keep_gathered")
