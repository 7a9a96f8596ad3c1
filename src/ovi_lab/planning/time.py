"""Step time: what is computed, what is sent, and how much of the sending hides behind the computing.

A model of a well-tuned run, not a measurement; the assumptions are named in `ASSUMPTIONS` and printed with the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ovi_lab.models.config import Modality, TowerConfig
from ovi_lab.planning.cluster import NETWORK, PER_NODE, Cluster
from ovi_lab.planning.flops import Flops
from ovi_lab.planning.job import GlobalBatch
from ovi_lab.planning.memory import Counts
from ovi_lab.planning.strategy import Sharding, Types

EFFICIENCY = 0.4
"""Share of the GPU's peak that computed FLOPs (recomputed ones too) reach. Published trainings of transformers of this
size reach 0.38 to 0.56: 0.46 for PaLM (arXiv 2204.02311), 0.42 to 0.56 for GPT of 22 to 1,000 billion parameters on
A100 (arXiv 2205.05198), 0.38 to 0.43 for Llama 3 on H100 (arXiv 2407.21783)."""
OPTIMISER_BYTES = 40
"""Read and written for each trained parameter in a step: gradient, weight, two moments, average (AdamW in float32)."""
HOST_BANDWIDTH = 200.0
"""GB/s of a machine's memory, for an optimiser that steps there."""
DISK = 6.0
"""GB/s of a machine's NVMe disks."""

ASSUMPTIONS = (
    f"Computing at the efficiency given; {PER_NODE} GPUs a machine, {NETWORK:g} GB/s from each to other machines.",
    "Gradients and gathered parameters are sent while the pass computes, and cost what it does not cover; weights that "
    "ZeRO 1 and 2 gather after a step, exchanges of sequence parallelism and traffic with host or disk are waited for.",
    f"An optimiser in the host's memory runs at {HOST_BANDWIDTH:g} GB/s of it, NVMe at {DISK:g} GB/s, a machine each.",
    "No time for data, validation, checkpoints and samples.",
)


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimiser step, by part."""

    compute: float
    exposed: float
    """Waiting for other GPUs."""
    optimiser: float
    offload: float
    """Waiting for the host's memory or disk."""

    @property
    def total(self) -> float:
        return self.compute + self.exposed + self.optimiser + self.offload


def step_time(
    flops: Flops,
    batch: GlobalBatch,
    counts: Counts,
    tokens: Mapping[Modality, int],
    towers: Mapping[Modality, TowerConfig],
    sharding: Sharding,
    types: Types,
    cluster: Cluster,
    *,
    efficiency: float = EFFICIENCY,
    text_flops: int = 0,
    recomputes: bool = False,
) -> StepTime | None:
    """The time of a step of `batch`; None where the kind of GPU is not known.

    Args:
        flops: of a micro-batch, over all GPUs of a sequence-parallel group.
        batch: micro-batches and how often.
        counts: of parameters.
        tokens: of a clip, by tower.
        towers: their sizes.
        sharding, types, cluster: where it runs.
        efficiency: share of the peak.
        text_flops: of the text encoder in the training process, a micro-batch.
        recomputes: whether blocks run again in the backward pass, and exchange again.
    """
    gpu = cluster.gpu
    if gpu is None:
        return None
    n, parts = cluster.count, sharding.sequence_parallel
    speed = gpu.tflops * 1e12 * efficiency
    micro = (flops.hardware / parts + text_flops) / speed
    ring = (n - 1) / n / (cluster.bandwidth * 1e9)  # seconds a byte in an all-gather or a reduce-scatter
    network, gradient = types.network.itemsize, types.gradients.itemsize
    weights, trained = network * counts.total, network * counts.trained
    each = once = after = 0.0
    if sharding.stage == 3:
        passes = 2 if sharding.reshard else 1
        each = ring * (passes * weights + gradient * counts.trained)
    elif sharding.stage == 2:
        each, after = ring * gradient * counts.trained, ring * trained
    elif sharding.stage == 1:
        once, after = ring * gradient * counts.trained, ring * trained
    elif n > 1:
        once = 2 * ring * gradient * counts.trained
    exposed = (batch.accumulate - 1) * max(0.0, each - micro) + max(0.0, each + once - micro) + after
    exposed += batch.accumulate * _exchanges(
        batch.micro, tokens, towers, parts, network, gpu.link, recomputes
    )
    share = counts.trained / (n if sharding.stage else 1)
    optimiser = OPTIMISER_BYTES * share / (gpu.bandwidth * 1e9)
    offload = 0.0
    in_machine = min(n, PER_NODE)
    if sharding.optimiser_at != "device":
        optimiser = OPTIMISER_BYTES * share * in_machine / (HOST_BANDWIDTH * 1e9)
        offload += 2 * network * share / (gpu.host * 1e9)
        if sharding.optimiser_at == "nvme":
            offload += 2 * 12 * share * in_machine / (DISK * 1e9)
    if sharding.parameters_at != "device":
        moved = batch.accumulate * 2 * weights / n
        offload += moved / (gpu.host * 1e9)
        if sharding.parameters_at == "nvme":
            offload += moved * in_machine / (DISK * 1e9)
    return StepTime(batch.accumulate * micro, exposed, optimiser, offload)


def _exchanges(
    clips: int,
    tokens: Mapping[Modality, int],
    towers: Mapping[Modality, TowerConfig],
    parts: int,
    size: int,
    link: float,
    recomputes: bool,
) -> float:
    """Seconds of a micro-batch's all-to-all exchanges (DeepSpeed-Ulysses, arXiv 2309.14509).

    Around self-attention queries, keys, values and the result are exchanged; between the towers queries and result of
    the one that reads, keys and values of the other.
    """
    if parts == 1:
        return 0.0
    values = 0
    for modality, config in towers.items():
        other = sum(count for m, count in tokens.items() if m != modality)
        values += config.num_layers * config.dim * (6 * tokens[modality] + 2 * other)
    sent = clips * size * values * (parts - 1) / parts**2
    return sent * (3 if recomputes else 2) / (link * 1e9)
