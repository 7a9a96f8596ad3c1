"""Activation checkpointing: what a block keeps for its backward pass, and what it then computes again.

Chen et al., arXiv 1604.06174; with a choice of what is kept, Korthikanti et al., arXiv 2205.05198, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ovi_lab.models.config import check_choice, check_positive_int

ACTIVATION_CHECKPOINTING = ("none", "full", "attention", "matmul")

# By name, since which of them exist depends on how PyTorch was built and on what else is imported.
_ATTENTION = frozenset(
    {
        "aten::_scaled_dot_product_cudnn_attention",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_fused_attention_overrideable",
        "flash_attn::_flash_attn_forward",
    }
)
_MATMUL = _ATTENTION | {"aten::addmm", "aten::baddbmm", "aten::bmm", "aten::linear", "aten::mm"}
_KEPT = {"attention": _ATTENTION, "matmul": _MATMUL}


class Recomputation:
    """How the blocks of a model run where gradients are needed.

    Args:
        choice: `none` keeps every activation; `full` keeps a block's inputs alone; `attention` also what the
            attention kernels give; `matmul` that and every matrix product, which leaves the cheap pointwise
            operations to compute again.
        every: blocks 0, every, 2 every, … are recomputed, the others keep all.

    The gradients are those of `none`. Raises UserError for another choice or number.
    """

    def __init__(self, choice: str = "none", every: int = 1) -> None:
        check_choice("activation_checkpointing", choice, ACTIVATION_CHECKPOINTING)
        check_positive_int("checkpoint_every", every)
        self.choice = choice
        self.every = every
        self._contexts: dict[str, Any] = {}
        if choice in _KEPT:
            self._contexts["context_fn"] = partial(_selective_contexts, _KEPT[choice])

    def run(self, index: int, block: Callable[..., Any], *args: Any) -> Any:
        """`block(*args)`, the block `index`, keeping what is chosen."""
        if self.choice == "none" or index % self.every or not torch.is_grad_enabled():
            return block(*args)
        return checkpoint(block, *args, use_reentrant=False, **self._contexts)


def _selective_contexts(
    kept: frozenset[str],
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """The contexts of a block's forward pass and of its recomputation: results of operations in `kept` stay."""

    def policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return (
            CheckpointPolicy.MUST_SAVE
            if operation.name().split(".")[0] in kept
            else CheckpointPolicy.PREFER_RECOMPUTE
        )

    return create_selective_checkpoint_contexts(policy)
