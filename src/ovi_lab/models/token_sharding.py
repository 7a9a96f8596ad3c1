"""Sharding of tokens over processes, and their exchange for heads around attention (see `sequence_parallel`).

Shapes: B batch, L tokens, S tokens of one process's share, M tokens of the stream that is read, H heads, h heads of
one process, K head dim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.models.attention import AttentionFunction, KeyMask
from ovi_lab.models.config import Modality
from ovi_lab.models.tower import Conditions


@dataclass(frozen=True)
class SequenceGroup:
    """The processes that make one clip together, and their place among the others."""

    rank: int
    """Rank of this process in its group."""
    size: int
    """Number of processes in a group."""
    index: int
    """Index of this group among all groups."""
    count: int
    """Number of groups."""
    group: dist.ProcessGroup | None
    """None where `size` is 1."""


class TokenSharding:
    """Shards tokens, exchanges them for heads around attention, and gathers them."""

    def __init__(self, group: SequenceGroup) -> None:
        self.group = group
        self.lengths: dict[Modality, int] = {}
        """Tokens of each stream in the pass that runs, without those added so that all shares are equal."""

    def split(
        self, streams: dict[Modality, Tensor], conditions: dict[Modality, Conditions]
    ) -> tuple[dict[Modality, Tensor], dict[Modality, Conditions]]:
        """This process's share [B, S, D] of each stream, and what its tokens read.

        Shares are equal: zeros follow the last tokens where their number does not divide. Key masks are
        not sharded, since attention sees all tokens.
        """
        self.lengths = {m: x.shape[1] for m, x in streams.items()}
        own = {}
        for modality, c in conditions.items():
            if not isinstance(c.rope, Tensor):
                raise TypeError(f"tokens are sharded with a rotary table, not with {type(c.rope).__name__}")
            share = -(-streams[modality].shape[1] // self.group.size)
            clean = None if c.clean is None else c.clean.share(self.group.rank * share, share)
            own[modality] = dataclasses.replace(c, clean=clean, rope=self._own(c.rope))
        return {m: self._own(x) for m, x in streams.items()}, own

    def join(self, streams: dict[Modality, Tensor]) -> dict[Modality, Tensor]:
        """The whole streams [B, L, D] of all processes' shares, on every process."""
        return {m: _Gather.apply(x, self.group)[:, : self.lengths[m]] for m, x in streams.items()}

    def exchanging(self, attend: AttentionFunction, queries: Modality, keys: Modality) -> AttentionFunction:
        """`attend` for queries of one stream over keys of one, of which each process has its share of tokens."""

        def attend_all(
            q_BLHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor, mask: KeyMask | Tensor | None
        ) -> Tensor:
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
        received = _Exchange.apply(stacked.movedim(3, 0), self.group)
        # what came from each process, in the order of the tokens: [part, B, process, S, h, K]
        joined = received.movedim(0, 2).flatten(2, 3)[:, :, : self.lengths[modality]]
        return joined.unbind(0)

    def _heads_for_tokens(self, out_BLhK: Tensor, share: int) -> Tensor:
        """All tokens [B, L, h, K] of this process's heads to this process's share [B, S, H, K], all heads."""
        missing = self.group.size * share - out_BLhK.shape[1]
        padded = torch.nn.functional.pad(out_BLhK, (0, 0, 0, 0, 0, missing))
        received = _Exchange.apply(padded.unflatten(1, (self.group.size, share)).movedim(1, 0), self.group)
        # what came from each process are its heads: [B, S, process, h, K]
        return received.movedim(0, 2).flatten(2, 3)


# Gradients. Of a world of G groups of n processes, the processes of group g hold the same whole output and compute
# the same loss L_g of it. The aim: the plain mean of gradients over all G n processes, which DDP, ZeRO and FSDP
# take, is the mean of the groups' gradients: (1 / (G n)) sum_g sum_r grad_gr = (1 / G) sum_g dL_g, so in each group
# (1 / n) sum_r grad_gr = dL_g.
# - After the gathering, every process computes all of dL_g itself: the mean of n equal ones is right as it is.
# - Between sharding and gathering, process r sees the part p_gr of dL_g that goes through its tokens, and their sum
#   is dL_g: each must be n p_gr, so the gathering returns n times the own share of its gradient. Exchanges send
#   gradients back to the senders of the values, and the factor stays.
# - Before the sharding, the own tokens' gradient is n times its value, the others' is 0: the mean is right.
#
# Under activation checkpointing the forward pass of a block, exchanges included, runs again. That is safe: autograd
# takes nodes in the reverse order of their making, the processes of a group make the same nodes (shares are of one
# shape, what is trained and recomputed is the same), so all of them come to the same exchange next.
class _Exchange(torch.autograd.Function):
    """Row i of [process, ...] goes to process i; row i of the result came from it."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, group: SequenceGroup) -> Tensor:
        ctx.group = group
        sent = sent.contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group.group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(gradients[0], ctx.group), None


class _Gather(torch.autograd.Function):
    """The shares [B, S, D] of all processes as one [B, size S, D]."""

    @staticmethod
    def forward(ctx: Any, x_BSD: Tensor, group: SequenceGroup) -> Tensor:
        ctx.group = group
        shares = [torch.empty_like(x_BSD, memory_format=torch.contiguous_format) for _ in range(group.size)]
        dist.all_gather(shares, x_BSD.contiguous(), group=group.group)
        return torch.cat(shares, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        group: SequenceGroup = ctx.group
        return group.size * gradients[0].chunk(group.size, dim=1)[group.rank], None
