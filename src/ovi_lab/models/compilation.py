"""Blocks compiled by torch.compile: one graph a pair of blocks, whatever is kept for the backward pass.

Compiled is what a block computes; its hooks run around the graph, so that FSDP2 gathers and frees parameters as ever.
Blocks of one kind share a graph: the second to the last cost no compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ovi_lab.common.fields import checked, nearest
from ovi_lab.errors import UserError
from ovi_lab.models.recomputation import KEPT, policy


class Compilable(Protocol):
    """A block whose `compute` makes tensors of tensors, without hooks, numbers of blocks or effects."""

    compute: Callable[..., Any]


class CompiledBlocks:
    """Calls of blocks' `compute` as compiled graphs.

    Args:
        backend: of torch.compile: `inductor`; `aot_eager` and `eager` show the graphs without generating code.

    UserError for another backend.
    """

    def __init__(self, backend: str = "inductor") -> None:
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            near = nearest(backend, known)
            raise UserError(f"model.compile_backend is {backend!r}, which torch.compile does not have{near}")
        # Graphs are of a model's own: with and without gradients, for text prepared or not, a clean frame, one clip, …
        limits: dict[str, Any] = {"recompile_limit": 64, "isolate_recompiles": True}
        self._call = torch.compile(_computed, backend=backend, fullgraph=True, **limits)

    def __call__(self, block: Compilable, keeps: str, *args: Any) -> Any:
        """`block.compute(*args)`, keeping for the backward pass what `keeps` says (see `Recomputation`)."""
        return self._call(block, keeps, *args)


def compiled_blocks(choice: str, backend: str) -> CompiledBlocks | None:
    """What `model.compile` is: `blocks`, or None for `none`; UserError for anything else."""
    checked(Literal["none", "blocks"], choice, "model.compile")
    return CompiledBlocks(backend) if choice == "blocks" else None


_CONTEXTS: dict[str, Any] = {
    choice: partial(create_selective_checkpoint_contexts, policy(kinds)) for choice, kinds in KEPT.items()
}


def _computed(block: Any, keeps: str, *args: Any) -> Any:
    if keeps == "none":
        return block.compute(*args)

    # The arguments that are no tensors are of the function, since the graph of a checkpoint takes tensors alone.
    def work() -> Any:
        return block.compute(*args)

    if keeps == "full":
        return checkpoint(work, use_reentrant=False)
    return checkpoint(work, use_reentrant=False, context_fn=_CONTEXTS[keeps])
