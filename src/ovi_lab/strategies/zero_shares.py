"""A process's shares under DeepSpeed ZeRO; see `shards`.

Stages 1 and 2 keep the network whole on every process and deal out the optimiser: each process steps its part of the
line in which all trained parameters of a group follow one another, in float32, and the parts are then gathered in the
network's type. Stage 3 deals out every parameter, frozen ones too, in equal parts, the last filled up.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ovi_lab.strategies.shares import Shards, Share


class _ZeroShards(Shards):
    """What the stages have in common: state in flat tensors that DeepSpeed hands to the optimiser."""

    def __init__(self, module: nn.Module, engine: Any) -> None:
        self._parameters = dict(module.named_parameters())
        self._zero = engine.optimizer
        self._optimizer = self._zero.optimizer

    @abstractmethod
    def _flats(self) -> list[Tensor]:
        """The tensors that the optimiser steps on this process, one a group."""

    @abstractmethod
    def _flat_of(self, name: str) -> Tensor:
        """The one that this process's part of a trained parameter is in."""

    @abstractmethod
    def _compute_with(self, values: Mapping[str, Tensor]) -> None:
        """Give the network these values of all trained parameters, in its own type."""

    def publish(self) -> None:
        self._compute_with({name: self.read(name) for name in self.trained()})

    def show(self, values: Mapping[str, Tensor]) -> None:
        self._compute_with(values)

    def hide(self) -> None:
        # the network's values are those that the optimiser steps, rounded: nothing need be kept
        self.publish()

    def slots(self) -> tuple[str, ...]:
        for flat in self._flats():
            state = self._optimizer.state.get(flat, {})
            if state:
                return tuple(k for k, v in state.items() if isinstance(v, Tensor) and v.shape == flat.shape)
        return ()

    def scalars(self) -> dict[str, dict[str, float]]:
        found = {}
        for name in self._held():
            flat = self._flat_of(name)
            state = self._optimizer.state.get(flat, {})
            found[name] = {
                k: float(v) for k, v in state.items() if not (isinstance(v, Tensor) and v.shape == flat.shape)
            }
        return {name: numbers for name, numbers in found.items() if numbers}

    def make_slots(self, slots: tuple[str, ...], scalars: Mapping[str, Mapping[str, float]]) -> None:
        for flat in self._flats():
            self._optimizer.state[flat] = {slot: torch.zeros_like(flat) for slot in slots}
        for name in self._held():
            if name in scalars:
                state = self._optimizer.state[self._flat_of(name)]
                # all parameters of a flat tensor step together
                state.update({key: torch.tensor(value) for key, value in scalars[name].items()})

    def _held(self) -> Iterator[str]:
        """Trained parameters of which this process has a part."""
        return (name for name in self.trained() if self.shares[name].count)


class ReplicatedZeroShards(_ZeroShards):
    """Stages 1 and 2.

    Args:
        module: the LightningModule.
        engine: DeepSpeed's, set up.
        first: whether this process saves what all hold alike.
    """

    partitioned = False

    def __init__(self, module: nn.Module, engine: Any, first: bool) -> None:
        super().__init__(module, engine)
        self.shares = {name: self._share(p, first) for name, p in self._parameters.items()}

    @staticmethod
    def _share(parameter: Any, first: bool) -> Share:
        shape = tuple(parameter.shape)
        if not parameter.requires_grad:
            return Share(shape, 0, parameter.numel(), False, first)
        mapping = parameter._hp_mapping
        if mapping is None:
            return Share(shape, 0, 0, True)
        return Share(shape, mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel, True)

    def _flats(self) -> list[Tensor]:
        return list(self._zero.single_partition_of_fp32_groups)

    def _flat_of(self, name: str) -> Tensor:
        return self._flats()[self._parameters[name]._hp_mapping.param_group_index]  # type: ignore[attr-defined]

    def read(self, name: str, slot: str | None = None) -> Tensor:
        share = self.shares[name]
        parameter: Any = self._parameters[name]
        if not share.trained:
            return parameter.detach().reshape(-1)
        if not share.count:
            return torch.empty(0, device=parameter.device)
        if slot is None:
            return parameter._hp_mapping.hp_fragment.detach()
        address = parameter._hp_mapping.hp_fragment_address
        return self._optimizer.state[self._flat_of(name)][slot].narrow(0, address.start, address.numel)

    def write(self, name: str, values: Tensor, slot: str | None = None) -> None:
        if self.shares[name].count:
            self.read(name, slot).copy_(values)

    def _compute_with(self, values: Mapping[str, Tensor]) -> None:
        """Every trained parameter put together from all processes' parts."""
        from torch import distributed

        for name in self.trained():
            parameter, share = self._parameters[name], self.shares[name]
            whole = torch.zeros(share.numel, dtype=torch.float32, device=parameter.device)
            whole[share.start : share.start + share.count] = values[name].to(whole.device)
            distributed.all_reduce(whole, group=parameter._dp_group)  # type: ignore[attr-defined]
            parameter.data.copy_(whole.view(parameter.shape))


class PartitionedZeroShards(_ZeroShards):
    """Stage 3, with its parameters on the device or offloaded.

    Args:
        module: the LightningModule.
        engine: DeepSpeed's, set up.
    """

    partitioned = True

    def __init__(self, module: nn.Module, engine: Any) -> None:
        super().__init__(module, engine)
        self.shares = {name: self._share(p) for name, p in self._parameters.items()}

    @staticmethod
    def _share(parameter: Any) -> Share:
        part = parameter.ds_tensor.ds_numel
        start = min(parameter.ds_numel, part * parameter.ds_zero_partition_rank)
        count = min(part, parameter.ds_numel - start)
        return Share(tuple(parameter.ds_shape), start, count, bool(parameter.requires_grad))

    def _flats(self) -> list[Tensor]:
        return list(self._zero.fp32_partitioned_groups_flat)

    def _flat_of(self, name: str) -> Tensor:
        group, _, _ = self._zero.grad_position[self._zero.get_param_id(self._parameters[name])]
        return self._flats()[group]

    def read(self, name: str, slot: str | None = None) -> Tensor:
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        parameter: Any = self._parameters[name]
        share = self.shares[name]
        if not share.trained:
            return parameter.ds_tensor.detach()[: share.count]
        if slot is None:
            return safe_get_local_fp32_param(parameter).detach()[: share.count]
        return safe_get_local_optimizer_state(parameter, slot).detach()[: share.count]

    def write(self, name: str, values: Tensor, slot: str | None = None) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        parameter: Any = self._parameters[name]
        share = self.shares[name]
        if not share.trained:
            parameter.ds_tensor.detach()[: share.count].copy_(values)
            return
        padded = torch.zeros(parameter.ds_tensor.ds_numel, dtype=torch.float32)
        padded[: share.count] = values.cpu()
        if slot is None:
            safe_set_local_fp32_param(parameter, padded)
        else:
            safe_set_local_optimizer_state(parameter, padded, slot)

    def _compute_with(self, values: Mapping[str, Tensor]) -> None:
        small = self._zero.persistent_parameters
        if small:
            # these stay gathered between steps: they are dealt out, changed and gathered anew
            small[0].partition(small)
        for name in self.trained():
            self._parameters[name].ds_tensor.detach()[: self.shares[name].count].copy_(values[name])  # type: ignore[attr-defined]
        if small:
            small[0].all_gather(small)
