"""Memory of each GPU in training, by part and at the two moments where it may be largest.

Weights, gradients and optimiser state follow from the counts of parameters and from what the strategy shards
(Rajbhandari et al., arXiv 1910.02054, section 5; arXiv 2104.07857 for offload); activations and what the optimiser
takes while it steps are measured on the meta device. P are all parameters, T the trained ones, N GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ovi_lab.common.sizes import DRIVER, MARGIN
from ovi_lab.planning.activations import PassMemory
from ovi_lab.planning.strategy import AHEAD, CPU_BUCKET, MAX_LIVE, Sharding, Types

Parts = Mapping[str, int]
FP32 = 4


@dataclass(frozen=True)
class Counts:
    """Parameters that memory depends on."""

    total: int
    trained: int
    small: int
    """Values in parameters so small that ZeRO 3 leaves them gathered."""
    largest: int
    """Values of the largest parameter of a block."""
    largest_unit: int
    """Values of the largest block, or pair of blocks, that FSDP2 gathers at once."""
    outside: int
    """Values outside of these blocks."""
    unit_trained: int
    """Trained values of the block, or pair of blocks, that has most of them."""
    frozen_size: int = 4
    """Bytes of a frozen value where what is trained has 4."""
    of_tower: Mapping[str, int] = field(default_factory=dict)
    """Values in the blocks of each tower."""
    block_of: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Values, and trained ones, of the largest block of each tower."""
    encoder_bytes: int = 0
    """Bytes of a frozen text encoder that runs in the training process."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU, and what it keeps elsewhere."""

    backward: Parts
    """At the largest moment of forward and backward."""
    step: Parts
    """While the optimiser steps."""
    elsewhere: Parts = field(default_factory=dict)
    """This GPU's share in its host's memory, or on its disk."""

    @property
    def total(self) -> int:
        """The most at any moment, without driver and margin."""
        return max(sum(self.backward.values()), sum(self.step.values()))

    def fits(self, memory: int) -> bool:
        """Whether it fits a GPU of so many bytes, with driver, kernels and allocator."""
        return self.total * MARGIN + DRIVER <= memory


def memory_of(
    counts: Counts,
    work: PassMemory,
    optimiser: tuple[float, float],
    sharding: Sharding,
    types: Types,
    gpus: int,
    *,
    accumulate: int = 1,
    averaged: bool = True,
    on_cpu: bool = False,
    encoder_work: int = 0,
) -> Memory:
    """The memory of one GPU.

    Args:
        counts: of parameters.
        work: of a micro-batch, on one GPU of a sequence-parallel group.
        optimiser: bytes of state, and bytes taken while it steps, of all parameters, not sharded.
        sharding: the strategy.
        types: of weights and gradients.
        gpus: N.
        accumulate: micro-batches of a step.
        averaged: whether there is an EMA.
        on_cpu: training on a CPU, whose buckets are smaller.
        encoder_work: what the text encoder takes while it reads a micro-batch's captions.
    """
    n = sharding.shared_by(gpus)
    share = -(-counts.trained // n)
    weights, gathered = _weights(counts, sharding, types, n, on_cpu)
    state, stepping = (int(x / n) for x in optimiser)
    state += FP32 * share if types.master else 0
    average = FP32 * share if averaged else 0
    held: dict[str, int] = {"weights": weights}
    elsewhere: dict[str, int] = {}
    where = {"device": "", "cpu": "host memory", "nvme": "disk"}
    if sharding.parameters_at != "device":
        elsewhere[f"weights, {where[sharding.parameters_at]}"] = held.pop("weights")
        held["weights"] = types.weights.itemsize * counts.small
    off = sharding.optimiser_at != "device"
    if off:
        elsewhere[f"optimiser state, {where[sharding.optimiser_at]}"] = state
        # ZeRO 3 has a tensor to accumulate them in, and another for the optimiser
        copies = 2 if sharding.name == "zero" and sharding.stage == 3 else 1
        elsewhere["gradients, host memory"] = copies * FP32 * share
        elsewhere["EMA, host memory"] = average
    else:
        held |= {"optimiser state": state, "EMA": average}
    if counts.encoder_bytes:
        held["text encoder"] = counts.encoder_bytes // (n if sharding.stage == 3 else 1)
    buffers = _buffers(counts, work, sharding, types, on_cpu)
    reducing = _reducing(counts, sharding, types, on_cpu)
    gradients = _gradients(counts, sharding, types, n, off)
    at_backward, activations = gradients, work.activations
    buckets_stay = sharding.stage == 0 and gpus > 1
    if sharding.stage < 2 and accumulate == 1 and not buckets_stay:
        # Lightning frees the last step's gradients between forward and backward
        coming = (work.with_gradients - work.activations, work.activations)
        at_backward, activations = max((gradients, work.forward), coming, key=sum)
    at_reduction = reducing > 0 and work.arriving + reducing > activations
    backward = {
        **held,
        "gradients": at_backward,
        "activations": max(work.arriving if at_reduction else activations, encoder_work),
        "gathered parameters": gathered,
        "communication buffers": buffers + (reducing if at_reduction else 0),
    }
    # stages 1 and 2 hand over a flat tensor of the optimiser's type, which it steps as it is; stage 1 frees the rest
    is_flat = sharding.name == "zero" and sharding.stage < 3 and types.gradients != types.network
    copied = types.master and not off and not is_flat
    step = {
        **held,
        "gradients": FP32 * share if is_flat and not off else gradients + (FP32 * share if copied else 0),
        "optimiser at work": 0 if off else stepping,
        # stage 2 allocates its buckets for each backward pass
        "communication buffers": buffers if sharding.name == "zero" and sharding.stage != 2 else 0,
    }
    return Memory(_some(backward), _some(step), _some(elsewhere))


def _some(parts: Parts) -> Parts:
    return {name: size for name, size in parts.items() if size}


def _weights(counts: Counts, sharding: Sharding, types: Types, gpus: int, on_cpu: bool) -> tuple[int, int]:
    """Bytes between passes, and of what is gathered during one."""
    apart = counts.block_of[sharding.kept][0] if sharding.kept else 0
    size, network = types.weights.itemsize, types.network.itemsize
    if sharding.stage < 3:
        return size * counts.trained + min(size, counts.frozen_size) * (counts.total - counts.trained), 0
    own = size * -(-counts.total // gpus)
    kept = network * counts.of_tower.get(sharding.kept or "", 0)
    if sharding.name == "zero":
        if sharding.within:
            own += size * -(-counts.total // sharding.within)  # the second copy
        # what is gathered ahead passes the limit by a parameter, and is copied out of the buffer that it came in
        live = min(counts.total - counts.small, MAX_LIVE + counts.largest)
        return own + size * counts.small + kept, network * (live + _bucket(sharding, on_cpu) // AHEAD)
    if not sharding.reshard:
        return own, network * counts.total
    # the root unit stays gathered; of the others the next comes while one works
    return own, network * (counts.outside + 2 * (counts.largest_unit - apart)) + kept


def _gradients(counts: Counts, sharding: Sharding, types: Types, gpus: int, off: bool) -> int:
    """Bytes from the end of the backward pass on."""
    if sharding.stage < 2:
        return types.gradients.itemsize * counts.trained
    if off and (sharding.stage == 3 or types.gradients == types.network):
        return 0
    return types.gradients.itemsize * -(-counts.trained // gpus)


def _buffers(counts: Counts, work: PassMemory, sharding: Sharding, types: Types, on_cpu: bool) -> int:
    """Bytes through which gradients are reduced."""
    if sharding.name == "fsdp2":
        # gradients of a unit, of which a tower that stays gathered is no part; and in float32 those of the unit before,
        # which are reduced while its activations are gone
        trained = counts.unit_trained - (counts.block_of[sharding.kept][1] if sharding.kept else 0)
        return types.network.itemsize * trained + max(0, FP32 * trained - work.block)
    if sharding.name != "zero":
        return 0  # DDP's buckets are the gradients (gradient_as_bucket_view)
    bucket = _bucket(sharding, on_cpu)
    if sharding.stage == 3:
        return types.gradients.itemsize * bucket
    # two, so that one is filled while the other is reduced (overlap_comm); stage 2 sums what it has reduced
    filled = types.gradients if sharding.stage == 1 else types.network
    return filled.itemsize * bucket * (1 if on_cpu else 2)


def _reducing(counts: Counts, sharding: Sharding, types: Types, on_cpu: bool) -> int:
    """Bytes that ZeRO takes besides while it reduces a full bucket: a copy; in stage 2 another in the sum's type."""
    if sharding.name != "zero":
        return 0
    copied = types.gradients.itemsize
    if sharding.stage == 2 and types.gradients != types.network:
        copied += types.network.itemsize
    return copied * min(_bucket(sharding, on_cpu), counts.trained)


def _bucket(sharding: Sharding, on_cpu: bool) -> int:
    return min(sharding.bucket, CPU_BUCKET) if on_cpu else sharding.bucket
