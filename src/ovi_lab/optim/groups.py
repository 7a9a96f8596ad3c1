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
    blocks: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        if muon and ".blocks." in f".{name}" and parameter.ndim == 2:
            blocks.append(parameter)
        elif parameter.ndim >= 2 and "modulation" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": blocks, "weight_decay": weight_decay, "use_muon": True},
        {"params": decayed, "weight_decay": weight_decay, "use_muon": False},
        {"params": plain, "weight_decay": 0.0, "use_muon": False},
    ]
    if not muon:
        for group in groups:
            del group["use_muon"]
    return [group for group in groups if group["params"]]
