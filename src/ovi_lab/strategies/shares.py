"""What one process holds of every parameter, under every strategy.

Under every strategy a process's share of a parameter is a contiguous run of its flattened values: all of them (one
process, DDP, what ZeRO 1 and 2 do not partition), a part of a group's flat tensor (ZeRO 1 and 2), an equal part of each
parameter (ZeRO 3), or some of its rows (FSDP2). So one description, a start and a count, serves to average, save and
load weights and optimiser state, and what one strategy saved another can load on any number of processes.

A slot is a tensor that the optimiser keeps for a parameter, by its own name for it (`exp_avg`, `exp_avg_sq`, …).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Share:
    """This process's run of a parameter's flattened values."""

    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    count: int
    trained: bool
    written: bool = True
    """Whether this process saves it: of what several hold alike, the first one does."""

    @property
    def numel(self) -> int:
        """Values of the whole parameter."""
        return torch.Size(self.shape).numel()


class Gradient(NamedTuple):
    """What this process holds of one parameter's gradient."""

    name: str
    values: Tensor | None
    """None where it holds none."""
    groups: tuple[Any, ...] = ()
    """Process groups over which the gradient is partitioned; none where each process has it whole."""


class Shares(ABC):
    """This process's shares of a LightningModule's parameters, by the names that they have in it."""

    by_name: Mapping[str, Share]
    _optimizer: torch.optim.Optimizer | None
    """Torch's, also within DeepSpeed; None where nothing is trained."""

    @abstractmethod
    def read(self, name: str, slot: str | None = None) -> Tensor:
        """[count], the values that the optimiser steps (in full precision), or a slot of it. May be a view."""

    @abstractmethod
    def write(self, name: str, values: Tensor, slot: str | None = None) -> None:
        """Overwrite this process's values; `publish` afterwards where they are weights."""

    @abstractmethod
    def gradient(self, name: str) -> Gradient:
        """This process's gradient of a trained parameter, between the backward pass and the optimiser's step."""

    @abstractmethod
    def _stepped(self, name: str) -> Tensor | None:
        """The tensor in which the optimiser steps a trained parameter; None where this process has no part of it."""

    def _states(self) -> Iterator[tuple[str, Tensor, Mapping[str, Any]]]:
        """Trained parameter, the tensor that the optimiser steps, and its state; empty before the first step."""
        if self._optimizer is not None:
            for name in self.trained():
                stepped = self._stepped(name)
                if stepped is not None:
                    yield name, stepped, self._optimizer.state.get(stepped, {})

    def slots(self) -> tuple[str, ...]:
        """Of the optimiser; none before its first step."""
        return tuple(
            dict.fromkeys(k for _, own, held in self._states() for k, v in held.items() if _fits(v, own))
        )

    def scalars(self) -> dict[str, dict[str, float]]:
        """Single numbers that the optimiser keeps for a trained parameter of this process (`step`), by parameter."""
        found = {
            n: {k: float(v) for k, v in held.items() if not _fits(v, own)} for n, own, held in self._states()
        }
        return {name: numbers for name, numbers in found.items() if numbers}

    def make_slots(self, slots: tuple[str, ...], scalars: Mapping[str, Mapping[str, float]]) -> None:
        """Make slots of zeros, with these scalars, as if the optimiser had stepped: a load then fills them."""
        if self._optimizer is None:
            return
        made: set[Tensor] = set()
        kernel = any(self._optimizer.defaults.get(key) for key in ("fused", "capturable"))
        for name, stepped, _ in self._states():
            state = self._optimizer.state[stepped]
            if stepped not in made:  # several parameters may be parts of one flat tensor, and step together
                made.add(stepped)
                state.clear()
                state.update({slot: torch.zeros_like(stepped) for slot in slots})
            # one kernel that steps all parameters counts their steps beside them
            place = stepped.device if kernel else None
            numbers = scalars.get(name, {}).items()
            state.update({key: torch.tensor(value, device=place) for key, value in numbers})

    def publish(self) -> None:
        """Let the network compute with what was written; every process calls it. Nothing to do where it does."""
        return

    @abstractmethod
    def show(self, values: Mapping[str, Tensor]) -> None:
        """Let the network compute with other values of the trained parameters until `hide`; all processes call it."""

    @abstractmethod
    def hide(self) -> None:
        """Compute with the optimiser's own values again; every process calls it."""

    def trained(self) -> Iterator[str]:
        """Names of what is trained."""
        return (name for name, share in self.by_name.items() if share.trained)


class TorchShares(Shares):
    """Parameters that are stepped as they are: whole ones, or FSDP2's, of which a process holds some rows.

    Args:
        module: whose parameters.
        optimizer: None where nothing is trained.
        first: whether this process saves what all hold alike.
    """

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer | None, first: bool = True
    ) -> None:
        self._parameters = dict(module.named_parameters())
        self._optimizer = optimizer
        self.by_name = {name: _share(p, first) for name, p in self._parameters.items()}
        self._hidden: dict[str, Tensor] = {}
        self._views: dict[str, Tensor] = {}
        """Flat views, kept: an average reads every parameter in every step."""

    def read(self, name: str, slot: str | None = None) -> Tensor:
        if slot is not None:
            return _local(self._slot(name, slot)).detach().reshape(-1)
        held, view = self._parameters[name], self._views.get(name)
        if view is not None and view.data_ptr() == held.data_ptr():
            return view
        view = _local(held).detach().reshape(-1)
        if not _is_dtensor(held):
            self._views[name] = view
        return view

    def write(self, name: str, values: Tensor, slot: str | None = None) -> None:
        held = self._parameters[name] if slot is None else self._slot(name, slot)
        local = _local(held).detach()
        local.copy_(values.view(local.shape))

    def gradient(self, name: str) -> Gradient:
        held = self._parameters[name]
        if not _is_dtensor(held):
            return Gradient(name, held.grad)
        groups = tuple(held.device_mesh.get_group(i) for i, p in enumerate(held.placements) if p.is_shard())
        return Gradient(name, None if held.grad is None else _local(held.grad), groups)

    def _stepped(self, name: str) -> Tensor:
        return self._parameters[name]

    def _slot(self, name: str, slot: str) -> Tensor:
        assert self._optimizer is not None
        return self._optimizer.state[self._parameters[name]][slot]

    def show(self, values: Mapping[str, Tensor]) -> None:
        for name in self.trained():
            held = self._parameters[name]
            local = _local(held)
            other = values[name].to(local.dtype).view(local.shape)
            if _is_dtensor(held):
                # the sharded tensor's storage is known to FSDP: its values change, not its place
                self._hidden[name] = local.detach().clone()
                local.detach().copy_(other)
            else:
                self._hidden[name], held.data = local.data, other

    def hide(self) -> None:
        for name, own in self._hidden.items():
            if _is_dtensor(self._parameters[name]):
                _local(self._parameters[name]).detach().copy_(own)
            else:
                self._parameters[name].data = own
        self._hidden = {}


def _is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    return isinstance(tensor, DTensor)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if _is_dtensor(tensor) else tensor


def _fits(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0


def _share(parameter: Tensor, first: bool) -> Share:
    shape, trained = tuple(parameter.shape), bool(parameter.requires_grad)
    if not _is_dtensor(parameter):
        return Share(shape, 0, parameter.numel(), trained, first)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    local, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    row = torch.Size(shape[1:]).numel()
    # of replicas the first one writes
    place = zip(parameter.device_mesh.get_coordinate() or (), parameter.placements, strict=True)
    written = all(coordinate == 0 or placement.is_shard() for coordinate, placement in place)
    return Share(shape, int(offset[0]) * row, torch.Size(local).numel(), trained, written)
