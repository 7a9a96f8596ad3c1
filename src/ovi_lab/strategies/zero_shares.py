"""A process's shares under DeepSpeed ZeRO; see `shares`.

Stages 1 and 2 keep the network whole on every process and partition the optimiser: each process steps its part of the
flat tensor in which all trained parameters of a group follow one another, in float32, and the parts are then gathered
in the network's type. Stage 3 partitions every parameter, frozen ones too, in equal parts, the last one padded.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ovi_lab.strategies.shares import Gradient, Share, Shares


class ZeroShares(Shares):
    """What the stages have in common: state in flat tensors that DeepSpeed hands to the optimiser."""

    _optimizer: Any

    def __init__(self, module: nn.Module, engine: Any) -> None:
        self._parameters: dict[str, Any] = dict(module.named_parameters())
        self._zero = engine.optimizer
        self._optimizer = self._zero.optimizer

    @abstractmethod
    def _compute_with(self, values: Mapping[str, Tensor]) -> None:
        """Give the network these values of all trained parameters, in its own type."""

    @abstractmethod
    def spoil_smallest_gradient(self) -> None:
        """Overwrite values of the gradient of the smallest trained parameter by NaN; every process calls it."""

    def publish(self) -> None:
        self._compute_with({name: self.read(name) for name in self.trained()})

    def show(self, values: Mapping[str, Tensor]) -> None:
        self._compute_with(values)

    def hide(self) -> None:
        # the network's values are those that the optimiser steps, rounded: nothing has to be saved
        self.publish()

    def _smallest(self) -> Any:
        """The trained parameter with the fewest values."""
        return self._parameters[min(self.trained(), key=lambda name: self.by_name[name].numel)]


class ReplicatedZeroShares(ZeroShares):
    """Stages 1 and 2.

    Args:
        module: the LightningModule.
        engine: DeepSpeed's, set up.
        first: whether this process saves what all hold alike.
    """

    def __init__(self, module: nn.Module, engine: Any, first: bool) -> None:
        super().__init__(module, engine)
        self.by_name = {name: self._share(p, first) for name, p in self._parameters.items()}

    @staticmethod
    def _share(parameter: Any, first: bool) -> Share:
        shape = tuple(parameter.shape)
        if not parameter.requires_grad:
            return Share(shape, 0, parameter.numel(), False, first)
        mapping = parameter._hp_mapping
        if mapping is None:
            return Share(shape, 0, 0, True)
        return Share(shape, mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel, True)

    def _stepped(self, name: str) -> Any:
        if self.by_name[name].count:
            return self._zero.single_partition_of_fp32_groups[
                self._parameters[name]._hp_mapping.param_group_index
            ]
        return None

    def read(self, name: str, slot: str | None = None) -> Tensor:
        share = self.by_name[name]
        parameter = self._parameters[name]
        if not share.trained:
            return parameter.detach().reshape(-1)
        if not share.count:
            return torch.empty(0, device=parameter.device)
        if slot is None:
            return parameter._hp_mapping.hp_fragment.detach()
        address = parameter._hp_mapping.hp_fragment_address
        return self._optimizer.state[self._stepped(name)][slot].narrow(0, address.start, address.numel)

    def write(self, name: str, values: Tensor, slot: str | None = None) -> None:
        if self.by_name[name].count:
            self.read(name, slot).copy_(values)

    def gradient(self, name: str) -> Gradient:
        # DeepSpeed's public call for it, `safe_get_full_grad`, would put every gradient together on every process
        parameter = self._parameters[name]
        mapping, groups = parameter._hp_mapping, (parameter._dp_group,)
        if mapping is None:
            return Gradient(name, None, groups)
        part = mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        address = mapping.lp_fragment_address
        if part is not None and part.numel() != address.numel:
            part = part.flatten().narrow(0, address.start, address.numel)
        return Gradient(name, part, groups)

    def spoil_smallest_gradient(self) -> None:
        from deepspeed.utils import safe_set_full_grad

        smallest = self._smallest()
        safe_set_full_grad(smallest, torch.full_like(smallest, math.nan, dtype=torch.float32))

    def _compute_with(self, values: Mapping[str, Tensor]) -> None:
        """Gather every trained parameter from all processes' parts."""
        for name in self.trained():
            parameter, share = self._parameters[name], self.by_name[name]
            full = torch.zeros(share.numel, dtype=torch.float32, device=parameter.device)
            full[share.start : share.start + share.count] = values[name].to(full.device)
            distributed.all_reduce(full, group=parameter._dp_group)
            parameter.data.copy_(full.view(parameter.shape))


class PartitionedZeroShares(ZeroShares):
    """Stage 3, with its parameters on the device or offloaded.

    DeepSpeed's public calls for a partition wait for the stream that reduces gradients, once a parameter, and move what
    is offloaded to the device. Here partitions are read where they are: the backward pass has waited for that stream
    at its end, and nothing else writes to them on it. Only what is swapped to a disk is left to those calls.

    Args:
        module: the LightningModule.
        engine: DeepSpeed's, set up.
    """

    def __init__(self, module: nn.Module, engine: Any) -> None:
        super().__init__(module, engine)
        self.by_name = {name: self._share(p) for name, p in self._parameters.items()}
        numbers = {id(p): i for group in self._zero.fp16_groups for i, p in enumerate(group)}
        self._number = {name: numbers[id(self._parameters[name])] for name in self.trained()}
        """Of a trained parameter within its group."""

    @staticmethod
    def _share(parameter: Any) -> Share:
        part = parameter.ds_tensor.ds_numel
        start = min(parameter.ds_numel, part * parameter.ds_zero_partition_rank)
        count = min(part, parameter.ds_numel - start)
        return Share(tuple(parameter.ds_shape), start, count, bool(parameter.requires_grad))

    def _place(self, name: str) -> tuple[int, int, int]:
        """The group of a trained parameter, where its part of the group's flat tensor begins, and the part's length
        with its padding."""
        group, start, length = self._zero.grad_position[self._zero.get_param_id(self._parameters[name])]
        return group, start, length

    def _is_on_disk(self, group: int) -> bool:
        return bool(self._zero._swappable_optimizer_subgroup(group))

    def _stepped(self, name: str) -> Any:
        if self.by_name[name].count:
            return self._zero.fp32_partitioned_groups_flat[self._place(name)[0]]
        return None

    def read(self, name: str, slot: str | None = None) -> Tensor:
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        parameter = self._parameters[name]
        share = self.by_name[name]
        if not share.trained:
            return parameter.ds_tensor.detach()[: share.count]
        group, start, _ = self._place(name)
        if not self._is_on_disk(group):
            stepped = self._zero.fp32_partitioned_groups_flat[group]
            whole = stepped if slot is None else self._optimizer.state[stepped][slot]
            return whole.detach().narrow(0, start, share.count)
        if slot is None:
            return safe_get_local_fp32_param(parameter).detach()[: share.count]
        return safe_get_local_optimizer_state(parameter, slot).detach()[: share.count]

    def write(self, name: str, values: Tensor, slot: str | None = None) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        parameter = self._parameters[name]
        share = self.by_name[name]
        if not share.trained:
            parameter.ds_tensor.detach()[: share.count].copy_(values)
            return
        padded = torch.zeros(parameter.ds_tensor.ds_numel, dtype=torch.float32)
        padded[: share.count] = values.cpu()
        if slot is None:
            safe_set_local_fp32_param(parameter, padded)
        else:
            safe_set_local_optimizer_state(parameter, padded, slot)

    def gradient(self, name: str) -> Gradient:
        from deepspeed.utils import safe_get_local_grad

        parameter = self._parameters[name]
        group, start, length = self._place(name)
        if not self._zero.offload_optimizer:
            values = self._zero.averaged_gradients[group][self._number[name]]
        elif self._is_on_disk(group):
            values = safe_get_local_grad(parameter)
        else:
            whole = self._zero.fp32_partitioned_groups_flat[group].grad
            values = whole.narrow(0, start, length)
        return Gradient(name, values, (parameter.ds_process_group,))

    def spoil_smallest_gradient(self) -> None:
        from deepspeed.utils import safe_get_local_grad, safe_set_local_grad

        smallest = self._smallest()
        # the first element only: a NaN in the padding of the last process's part would never be overwritten
        part = safe_get_local_grad(smallest).clone()
        if distributed.get_rank(smallest.ds_process_group) == 0:
            part[0] = math.nan
        safe_set_local_grad(smallest, part)

    def _compute_with(self, values: Mapping[str, Tensor]) -> None:
        # as DeepSpeed's own step does: all that is gathered, or about to be, is freed, changed and gathered anew
        self._zero.parameter_offload.partition_all_parameters()
        for name in self.trained():
            self._parameters[name].ds_tensor.detach()[: self.by_name[name].count].copy_(values[name])
        self._zero.invalidate_secondary_tensor()
        if persistent := self._zero.persistent_parameters:
            persistent[0].all_gather(persistent)
