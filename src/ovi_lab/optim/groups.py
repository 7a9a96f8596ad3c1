"""Which parameter goes to which kind of update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float = 0.0, muon: bool = False
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters: block matrices, other weights with decay, and those never decayed.

    Args:
        named_parameters: as from `module.named_parameters()`; frozen ones are left out.
        weight_decay: for weights of two and more dimensions; norms, biases and modulations never decay.
        muon: give the matrices inside the blocks to Muon (`use_muon: True`).

    Returns:
        Non-empty groups, each with `params`, `weight_decay`, and `use_muon` where `muon` is on.
    """
    blocks: dict[str, Any] = {"params": [], "weight_decay": weight_decay, "use_muon": True}
    decayed: dict[str, Any] = {"params": [], "weight_decay": weight_decay, "use_muon": False}
    plain: dict[str, Any] = {"params": [], "weight_decay": 0.0, "use_muon": False}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        if muon and ".blocks." in f".{name}" and parameter.ndim == 2:
            group = blocks
        else:
            group = decayed if parameter.ndim >= 2 and "modulation" not in name else plain
        group["params"].append(parameter)
    groups = [blocks, decayed, plain]
    if not muon:
        for group in groups:
            del group["use_muon"]
    return [group for group in groups if group["params"]]
