"""ZeRO 3 around compiled blocks: parameters are gathered a block at a time instead of a layer at a time.

DeepSpeed gathers, frees and reduces in hooks of modules, and no hook can run inside a graph without breaks. Pairs of
blocks, and the blocks of towers that run alone, become what DeepSpeed calls leaf modules: hooks run around them alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ovi_lab.models import TwinDiT


@contextmanager
def gathered_by_block(model: TwinDiT) -> Iterator[None]:
    """Within the block, DeepSpeed is set up: what it hooks then are blocks, and nothing in them."""
    from deepspeed.utils import set_z3_leaf_module

    pairs: list[nn.Module] = list(model.twin_blocks)
    alone = [block for modality in model.tower_configs for block in model.tower(modality).each_block()]
    for block in (*alone, *pairs):
        set_z3_leaf_module(block, True)
    children = model.children

    def with_pairs() -> Iterator[nn.Module]:
        # behind the towers: a parameter is reduced with the last leaf module that holds it
        yield from children()
        yield from pairs

    # DeepSpeed finds modules as children, and pairs are none: parameters would get second names
    model.children = with_pairs  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.children
    model.gathers_blocks = True
    unit: Any
    for unit in pairs or alone:
        unit.open = partial(_opened, unit)
        if any(p.requires_grad for p in unit.parameters()):
            unit.register_forward_pre_hook(_with_gradients, prepend=True)


def _with_gradients(block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Streams with gradients: DeepSpeed takes a block's own to be there when those of its inputs are.

    Where nothing before the first block is trained, its inputs would have none, and its own would be taken for 0.
    """
    if not torch.is_grad_enabled():
        return None
    return tuple(
        x.detach().requires_grad_() if isinstance(x, Tensor) and not x.requires_grad else x for x in args
    )


def _opened(block: Any, *streams_and_conditions: Any) -> Any:
    """The block's `open`, called as its forward pass is, around which the hooks run."""
    count = len(streams_and_conditions)
    alone = [0] if count == 2 else []  # of one tower: the number of a block

    def opened(own: Any, *args: Any) -> Any:
        return type(own).open(own, *args[:count])

    return block(*streams_and_conditions, *alone, call=opened)
