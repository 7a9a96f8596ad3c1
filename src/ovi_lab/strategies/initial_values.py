"""From a model on the meta device to parameters with values, one at a time: no host ever holds them all.

A strategy decides where each goes: to the device, to all processes in parts, to some rows of a sharded tensor.
`ParameterValues` gives the value: a pretrained tensor read from its file, or the initial value of that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from ovi_lab.checkpoints.init_from import Beginning
from ovi_lab.common.seeding import generator_for
from ovi_lab.models import TwinDiT
from ovi_lab.models.initialisation import initial_value


class Values(Protocol):
    """Gives a parameter's value, or some rows of it, on the CPU.

    Takes its full name, the module that owns it and its name there. What is read from a file is read for these rows
    alone; what is drawn is drawn whole, as it must not depend on who holds which part.
    """

    def __call__(self, name: str, owner: nn.Module, leaf: str, rows: slice | None = None) -> Tensor: ...


class ParameterValues:
    """Where each parameter of a model begins.

    Args:
        model: its settings say what initial values are.
        beginning: pretrained weights; None: there are none.
    """

    def __init__(self, model: TwinDiT, beginning: Beginning | None = None) -> None:
        self.model, self.beginning = model, beginning

    def __call__(self, name: str, owner: nn.Module, leaf: str, rows: slice | None = None) -> Tensor:
        if self.beginning is not None and name in self.beginning.weights:
            return self.beginning.value(name, rows)
        shape = owner.get_parameter(leaf).shape
        value = initial_value(
            name,
            owner,
            shape,
            generator_for(self.model.init_seed, "initial value", name),
            rope_factor=self.model.rope_config.factor,
            fusion_init=self.model.fusion_config.fusion_init,
        )
        return value if rows is None else value[rows]


def owned_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Full name, owner, name there, and parameter: every one of the module, in order."""
    for prefix, owner in module.named_modules():
        for leaf, parameter in list(owner.named_parameters(recurse=False)):
            yield (f"{prefix}.{leaf}" if prefix else leaf), owner, leaf, parameter


@torch.no_grad()
def place_whole(
    model: nn.Module, values: Values, device: torch.device | str, dtype: torch.dtype | None = None
) -> None:
    """Give every parameter its value on `device`, in `dtype` (None: its own)."""
    for name, owner, leaf, parameter in owned_parameters(model):
        value = torch.empty(parameter.shape, dtype=dtype or parameter.dtype, device=device)
        value.copy_(values(name, owner, leaf))
        setattr(owner, leaf, nn.Parameter(value, requires_grad=parameter.requires_grad))
