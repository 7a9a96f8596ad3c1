"""One kernel for all parameters of a step, where torch has it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")
"""Settings of a group that say how torch computes a step, not which: a checkpoint does not bring them."""


def fused_where_possible(factory: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """A factory of Adam or AdamW that takes the fused kernel for parameters on a GPU; any other as it is.

    Args:
        factory: torch's class, or a partial of it; one that chooses an implementation itself is left alone.
        device: where the optimiser steps.
    """
    made, given = getattr(factory, "func", factory), getattr(factory, "keywords", {})
    if device.type != "cuda" or made not in (torch.optim.Adam, torch.optim.AdamW):
        return factory
    return factory if given.keys() & set(IMPLEMENTATION) else functools.partial(factory, fused=True)
