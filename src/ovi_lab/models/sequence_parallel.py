"""Sequence parallelism: the tokens of a clip are sharded over processes, and attention exchanges them for heads.

Everything but attention works token by token, so a process runs it on its share of each stream. Around
self-attention and the attention between the towers, all processes exchange: each gives its tokens' queries, keys
and values of all heads and gets those of all tokens for its share of the heads; afterwards the other way round
(DeepSpeed-Ulysses, Jacobs et al., arXiv 2309.14509). Attention to the text is local: every process has the text.

What a caller does, on every process of `torchrun --nproc-per-node=8 …`:

    group = sequence_group(4)                        # once, after init_process_group: 2 groups of 4 processes
    for request in requests[group.index :: group.count]:
        with sequence_parallel(model, group):
            latents = sample(model, …)               # the same noise, texts and settings on all of the group
        if group.rank == 0:
            …                                        # decode and write; all of the group hold the whole latents

A training run calls `enable_sequence_parallel(model, group)` once. All processes of a group then train on the same
batches, with the same noise and times, and the plain mean of gradients over all processes is that over groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ovi_lab.common.fields import AtLeastOne, checked
from ovi_lab.errors import UserError
from ovi_lab.models.attention import AttentionFunction
from ovi_lab.models.config import Modality
from ovi_lab.models.token_sharding import SequenceGroup, TokenSharding
from ovi_lab.models.twin import TwinDiT


def sequence_group(size: int) -> SequenceGroup:
    """The group of this process, of `size` processes with successive ranks.

    Every process calls it, and once: it sets up communication. `size` 1 works without torch.distributed too.
    UserError where the processes do not divide into groups of `size`.
    """
    checked(AtLeastOne, size, "sequence_parallel")
    started = dist.is_available() and dist.is_initialized()
    world, rank = (dist.get_world_size(), dist.get_rank()) if started else (1, 0)
    if world % size:
        processes = "1 process" if world == 1 else f"{world} processes"
        raise UserError(
            f"sequence_parallel is {size} with {processes}; expected a divisor of their number: "
            f"torchrun --nproc-per-node={size} …"
        )
    own = dist.new_subgroups(group_size=size)[0] if size > 1 else None
    return SequenceGroup(rank % size, size, rank // size, world // size, own)


def enable_sequence_parallel(model: TwinDiT, group: SequenceGroup) -> Callable[[], None]:
    """Makes `model` predict together with the same model on the other processes of `group`.

    Every process calls the model with the same inputs, gets the whole prediction and computes the same loss of it.
    A group of one leaves the model as it is. Returns a function that switches sequence parallelism off again.

    UserError for heads that do not divide by the group's size, and where the model is sharded already.
    """
    if group.size == 1:
        return lambda: None
    if model.sharding is not None:
        raise UserError(
            f"sequence_parallel is already on, over {model.sharding.group.size} processes; end it before another"
        )
    for modality, config in model.tower_configs.items():
        if config.num_heads % group.size:
            raise UserError(
                f"sequence_parallel is {group.size}, but the {modality} tower has {config.num_heads} attention "
                "heads; use a divisor of them"
            )
    sharding = TokenSharding(group)
    before: list[tuple[torch.nn.Module, str, AttentionFunction]] = []
    for modality in model.tower_configs:
        other: Modality = "audio" if modality == "video" else "video"
        for block in model.tower(modality).each_block():
            before.append((block.self_attn, "attend", block.self_attn.attend))
            block.self_attn.attend = sharding.exchanging(block.self_attn.attend, modality, modality)
            across = block.cross_attn
            before.append((across, "attend_other", across.attend_other))
            across.attend_other = sharding.exchanging(across.attend_other, modality, other)
    model.sharding = sharding

    def disable() -> None:
        model.sharding = None
        for module, name, attend in before:
            setattr(module, name, attend)

    return disable


@contextmanager
def sequence_parallel(model: TwinDiT, group: SequenceGroup) -> Iterator[TwinDiT]:
    """Context in which the model runs sequence parallel (see `enable_sequence_parallel`)."""
    disable = enable_sequence_parallel(model, group)
    try:
        yield model
    finally:
        disable()
