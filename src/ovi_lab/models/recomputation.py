"""Activation checkpointing: what a block keeps for its backward pass, and what it then computes again.

Chen et al., arXiv 1604.06174; with a choice of what is kept, Korthikanti et al., arXiv 2205.05198, section 5.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ovi_lab.common.fields import AtLeastOne, checked

ACTIVATION_CHECKPOINTING = ("none", "full", "attention", "matmul")
AUTO = "auto"
"""A choice that is left to who trains; `full` where nobody makes it."""

Kind = Literal["attention", "matmul"]

KEPT: dict[str, frozenset[Kind]] = {
    "attention": frozenset({"attention"}),
    "matmul": frozenset({"attention", "matmul"}),
}

# By name, since which of them exist depends on how PyTorch was built and on what else is imported.
_OPERATIONS: dict[Kind, frozenset[str]] = {
    "attention": frozenset(
        {
            "aten::_scaled_dot_product_cudnn_attention",
            "aten::_scaled_dot_product_efficient_attention",
            "aten::_scaled_dot_product_flash_attention",
            "aten::_scaled_dot_product_flash_attention_for_cpu",
            "aten::_scaled_dot_product_fused_attention_overrideable",
            "flash_attn::_flash_attn_forward",
        }
    ),
    "matmul": frozenset({"aten::addmm", "aten::bmm", "aten::mm", "aten::_scaled_mm"}),
}


class Recomputation:
    """How the blocks of a model run where gradients are needed.

    Args:
        choice: `none` keeps every activation; `full` keeps a block's inputs alone; `attention` also what the
            attention kernels give; `matmul` that and what the linear layers give, which leaves the cheap
            pointwise operations to compute again.
        every: blocks 0, every, 2 every, … are recomputed, the others keep all.

    The gradients are those of `none`. Raises UserError for another choice or number.
    """

    def __init__(self, choice: str = "none", every: int = 1) -> None:
        checked(Literal[(*ACTIVATION_CHECKPOINTING, AUTO)], choice, "activation_checkpointing")
        choice = "full" if choice == AUTO else choice
        checked(AtLeastOne, every, "checkpoint_every")
        self.choice = choice
        self.every = every

    def of(self, index: int) -> str:
        """What the block `index` keeps in the pass that runs now."""
        return "none" if index % self.every or not torch.is_grad_enabled() else self.choice

    def run(self, index: int, block: Callable[..., Any], *args: Any) -> Any:
        """`block(*args)`, the block `index`, keeping what is chosen."""
        if self.of(index) == "none":
            return block(*args)
        # Not checked for equal shapes: ZeRO-3 has freed frozen parameters by then, whose shape is [0], and
        # gathers them again before a gradient needs them.
        settings: dict[str, Any] = {"use_reentrant": False, "determinism_check": "none"}
        if self.choice in KEPT:
            settings["context_fn"] = self._contexts
        return checkpoint(block, *args, **settings)

    def _contexts(self) -> tuple[_Pass, _Pass]:
        """The contexts of one block: around its forward pass, and around its recomputation."""
        pairs: list[tuple[AbstractContextManager[Any], AbstractContextManager[Any]]] = []
        return _Pass(KEPT[self.choice], pairs, again=False), _Pass(KEPT[self.choice], pairs, again=True)


class BlockCall(nn.Module):
    """Calls a block with its streams: a module without parameters, for what hooks on modules do.

    A pair of blocks is called as one, and is no submodule of the model, which holds the towers' blocks. DeepSpeed's
    ZeRO 3 keeps the frozen parameters that it gathers to recompute a block until the backward pass of the module has
    ended that it is within: without this one the whole model's, and all of them are there at its end.
    """

    def forward(self, run: Callable[..., Any], *streams: Tensor | None) -> Any:
        """`run(*streams)`."""
        return run(*streams)


class _Pass:
    """One pass over a block: which results of its kernels are kept, or returned again.

    PyTorch's selective checkpointing watches every operation in its context. Here that context is put around the
    kernels alone, one at a time, as between them run the hooks that gather sharded parameters: their operations
    differ from pass to pass, and are none of the block's.
    """

    def __init__(self, kinds: frozenset[Kind], pairs: list[Any], again: bool) -> None:
        self._kinds = kinds
        self._pairs = pairs
        self._again = again
        self._done = 0
        self._before: _Pass | None = None

    def __enter__(self) -> None:
        self._done = 0
        self._before, _running.now = _running.now, self

    def __exit__(self, *_: object) -> None:
        _running.now = self._before

    def around(self, kind: Kind) -> AbstractContextManager[Any] | None:
        if kind not in self._kinds:
            return None
        if not self._again:
            self._pairs.append(create_selective_checkpoint_contexts(_POLICIES[kind]))
            return self._pairs[-1][0]
        self._done += 1
        return self._pairs[self._done - 1][1]


class _Running(threading.local):
    """The pass that runs in this thread: on GPUs, autograd recomputes in a thread of its own."""

    now: _Pass | None = None


_running = _Running()


def policy(kinds: Collection[Kind]) -> Callable[..., CheckpointPolicy]:
    """PyTorch's question for every operation, answered: kept are those of `kinds`."""
    kept = frozenset().union(*(_OPERATIONS[kind] for kind in kinds))

    def answer(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        is_kept = operation.name().split(".")[0] in kept
        return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE

    return answer


_POLICIES: dict[Kind, Callable[..., CheckpointPolicy]] = {kind: policy([kind]) for kind in _OPERATIONS}


def _around(kind: Kind) -> AbstractContextManager[Any] | None:
    # Compiled, the graph's own checkpoint keeps what the choice says.
    if torch.compiler.is_compiling() or _running.now is None:
        return None
    return _running.now.around(kind)


def attention_kernel() -> AbstractContextManager[Any]:
    """Context around an attention kernel, whose result is kept where the choice says so."""
    return _around("attention") or nullcontext()


class Linear(nn.Linear):
    """A linear layer of a block, whose result is kept where the choice says so."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        context = _around("matmul")
        if context is None:
            return super().forward(x)
        # As rows: of more dimensions, DeepSpeed's replacement of F.linear adds the bias to the kept product.
        rows = x.flatten(0, -2)
        with context:
            out = F.linear(rows, self.weight, self.bias)
        return out.unflatten(0, x.shape[:-1])
