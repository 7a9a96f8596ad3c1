"""One clip over several processes: the tokens of both towers are dealt out, attention exchanges them for heads.

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

Shapes: B batch, L tokens, S tokens of one process's share, H heads, h heads of one process, K head dim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.models.attention import AttentionFunction
from ovi_lab.models.config import Modality
from ovi_lab.models.tower import Conditions
from ovi_lab.models.twin import TwinDiT


@dataclass(frozen=True)
class SequenceGroup:
    """The processes that make one clip together, and their place among the others."""

    rank: int
    """Of this process in its group."""
    size: int
    """Processes of a group."""
    index: int
    """Of this group among all."""
    count: int
    """Groups."""
    group: dist.ProcessGroup | None
    """None where `size` is 1."""


def sequence_group(size: int) -> SequenceGroup:
    """The group of this process, of `size` processes with successive ranks.

    Every process calls it, and once: it sets up communication. `size` 1 works without torch.distributed too.
    UserError where the processes do not divide into groups of `size`.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(f"sequence_parallel is {size!r}; expected a whole number of at least 1")
    started = dist.is_available() and dist.is_initialized()
    world, rank = (dist.get_world_size(), dist.get_rank()) if started else (1, 0)
    if world % size:
        processes = "1 process" if world == 1 else f"{world} processes"
        raise UserError(
            f"sequence_parallel is {size} with {processes}; expected a divisor of their number: "
            f"torchrun --nproc-per-node={size} …"
        )
    own: dist.ProcessGroup | None = None
    if size > 1:
        own, _ = dist.new_subgroups(group_size=size)
    return SequenceGroup(rank % size, size, rank // size, world // size, own)


@contextmanager
def sequence_parallel(model: TwinDiT, group: SequenceGroup) -> Iterator[TwinDiT]:
    """Inside it, `model` predicts together with the same model on the other processes of `group`.

    Every process calls the model with the same inputs and gets the whole prediction; for sampling alone, no
    gradient passes. A group of one leaves the model as it is. UserError for heads that do not divide by the
    group's size and for savings that are switched off in the model.
    """
    if group.size == 1:
        yield model
        return
    for modality, config in model.tower_configs.items():
        if config.num_heads % group.size:
            raise UserError(
                f"sequence_parallel is {group.size}, but the {modality} tower has {config.num_heads} attention "
                "heads; use a divisor of them"
            )
    if not (model.savings.shared_modulation and model.savings.cache_rope):
        raise UserError(
            f"sequence_parallel is {group.size} with shared modulation or cached rotary tables switched off; "
            "switch both on"
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
    try:
        yield model
    finally:
        model.sharding = None
        for module, name, attend in before:
            setattr(module, name, attend)


class TokenSharding:
    """Deals out tokens, exchanges them for heads around attention, and gathers them."""

    def __init__(self, group: SequenceGroup) -> None:
        self.group = group
        self.lengths: dict[Modality, int] = {}
        """Tokens of each stream in the pass that runs, without those added so that all shares are equal."""

    def split(
        self, streams: dict[Modality, Tensor], conditions: dict[Modality, Conditions]
    ) -> tuple[dict[Modality, Tensor], dict[Modality, Conditions]]:
        """This process's share [B, S, D] of each stream, and what its tokens read.

        Shares are equal: zeros follow the last tokens where their number does not divide. Key masks stay
        whole, since attention sees all tokens.
        """
        if torch.is_grad_enabled():
            raise UserError("sequence parallelism passes no gradients; call the model under torch.no_grad()")
        self.lengths = {m: x.shape[1] for m, x in streams.items()}
        own = {}
        for modality, c in conditions.items():
            if not isinstance(c.rope, Tensor):
                raise TypeError(f"tokens are dealt out with a rotary table, not with {type(c.rope).__name__}")
            clean = None if c.clean is None else self._own(c.clean)
            own[modality] = dataclasses.replace(c, clean=clean, rope=self._own(c.rope))
        return {m: self._own(x) for m, x in streams.items()}, own

    def join(self, streams: dict[Modality, Tensor]) -> dict[Modality, Tensor]:
        """The whole streams [B, L, D] of all processes' shares, on every process."""
        whole = {}
        for modality, x_BSD in streams.items():
            shares = [
                torch.empty_like(x_BSD, memory_format=torch.contiguous_format) for _ in range(self.group.size)
            ]
            dist.all_gather(shares, x_BSD.contiguous(), group=self.group.group)
            whole[modality] = torch.cat(shares, dim=1)[:, : self.lengths[modality]]
        return whole

    def exchanging(self, attend: AttentionFunction, queries: Modality, keys: Modality) -> AttentionFunction:
        """`attend` for queries of one stream over keys of one, of which each process has its share of tokens."""

        def attend_all(q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: Tensor | None) -> Tensor:
            if queries == keys:
                q, k, v = self._tokens_for_heads([q_BLHK, k_BMHK, v_BMHK], queries)
            else:
                (q,) = self._tokens_for_heads([q_BLHK], queries)
                k, v = self._tokens_for_heads([k_BMHK, v_BMHK], keys)
            return self._heads_for_tokens(attend(q, k, v, mask), q_BLHK.shape[1])

        return attend_all

    def check_same(self, inputs: Sequence[Tensor]) -> None:
        """Raises UserError unless all processes of the group hold the same values (by their sums)."""
        sums = [(x.numel(), x.double().sum(), x.double().abs().sum()) for x in inputs]
        own = torch.tensor([[float(value) for value in row] for row in sums], dtype=torch.float64)
        own = own.to(inputs[0].device)
        everyone = [torch.empty_like(own) for _ in range(self.group.size)]
        dist.all_gather(everyone, own, group=self.group.group)
        if any(not torch.equal(one, everyone[0]) for one in everyone):
            raise UserError(
                "the processes that make one clip together were given different noise or first frames; give "
                "all of a sequence group the same seeds and images"
            )

    def _own(self, x: Tensor) -> Tensor:
        """This process's share of [B, L, ...], zeros where there are no tokens left."""
        share = -(-x.shape[1] // self.group.size)
        own = x[:, self.group.rank * share : (self.group.rank + 1) * share]
        missing = share - own.shape[1]
        return (
            torch.cat([own, own.new_zeros(own.shape[0], missing, *own.shape[2:])], dim=1) if missing else own
        )

    def _tokens_for_heads(self, parts: Sequence[Tensor], modality: Modality) -> tuple[Tensor, ...]:
        """Shares [B, S, H, K] of one stream to all its L tokens [B, L, h, K], for this process's heads."""
        stacked = torch.stack([x.unflatten(2, (self.group.size, -1)) for x in parts])
        # [part, B, S, process, h, K] to what goes to each process
        received = self._exchange(stacked.movedim(3, 0))
        # what came from each process, in the order of the tokens: [part, B, process, S, h, K]
        whole = received.movedim(0, 2).flatten(2, 3)[:, :, : self.lengths[modality]]
        return whole.unbind(0)

    def _heads_for_tokens(self, out_BLhK: Tensor, share: int) -> Tensor:
        """All tokens [B, L, h, K] of this process's heads to this process's share [B, S, H, K], all heads."""
        missing = self.group.size * share - out_BLhK.shape[1]
        padded = torch.nn.functional.pad(out_BLhK, (0, 0, 0, 0, 0, missing))
        received = self._exchange(padded.unflatten(1, (self.group.size, share)).movedim(1, 0))
        # what came from each process are its heads: [B, S, process, h, K]
        return received.movedim(0, 2).flatten(2, 3)

    def _exchange(self, sent: Tensor) -> Tensor:
        """Row i of [process, ...] goes to process i; row i of the result came from it."""
        sent = sent.contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group.group)
        return received
