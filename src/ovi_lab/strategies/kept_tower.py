"""A pair of blocks of which one tower's parameters stay gathered for a whole optimiser step, under FSDP2.

The audio tower holds half of the parameters and sees a hundredth of the tokens: gathering it for every micro-batch
costs more than what is computed with it. Its gradients and optimiser state stay sharded.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.models.twin_block import Streams, TwinBlock


def check_kept(model: TwinDiT, tower: Modality) -> None:
    """UserError where the model has not both towers, so that keeping one of them gathered means nothing."""
    if len(model.tower_configs) < 2:
        only = next(iter(model.tower_configs))
        raise UserError(
            f"strategy.keep_gathered is {tower} for a model of the {only} tower alone: set strategy.keep_gathered=null"
        )


class KeptTowerPair(nn.Module):
    """A pair of blocks as a sharding unit within another one, which holds one tower's parameters.

    Args:
        pair: whose forward pass this is.
        tower: the modality whose block is of the outer unit.
    """

    def __init__(self, pair: TwinBlock, tower: Modality) -> None:
        super().__init__()
        # before the pair: FSDP looks for parameters of the outer unit beside the inner one
        self.kept: nn.Module = getattr(pair, tower)
        self.pair = pair
        self.index = pair.index

    @property
    def video(self) -> nn.Module:
        return self.pair.video

    @property
    def audio(self) -> nn.Module:
        return self.pair.audio

    def shard(self, settings: dict[str, Any]) -> None:
        """Shard both units by `fully_shard` with these settings."""
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        kept = set(self.kept.parameters())
        fully_shard(self.pair, **settings, ignored_params=kept)
        others = set(self.pair.parameters()) - kept
        outer: Any = fully_shard(self, **{**settings, "reshard_after_forward": False}, ignored_params=others)
        for unit in (self.pair, outer):
            register_fsdp_forward_method(unit, "open")

    def free_after_backward(self, last: bool) -> None:
        """Whether the next backward pass, the `last` one of a step, frees what is kept: the step changes it."""
        outer: Any = self
        outer.set_reshard_after_backward(last, recurse=False)

    def forward(self, *streams_and_conditions: Any, **how: Any) -> Streams:
        """As the pair's."""
        new: Streams = self.pair(*streams_and_conditions, **how)
        return new

    def open(self, *streams_and_conditions: Any) -> Streams:
        """As the pair's."""
        return self.pair.open(*streams_and_conditions)
