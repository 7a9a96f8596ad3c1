"""PyTorch's FSDP2: parameters, gradients and optimiser state sharded by rows, gathered a block at a time.

A unit is a pair of blocks of both towers (or a block of a lone one); what surrounds them is the root unit.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from ovi_lab.models import TwinDiT
from ovi_lab.strategies.initial_values import Values, owned_parameters
from ovi_lab.strategies.sharded_checkpoints import ShardedCheckpoints


class FSDP2Strategy(ShardedCheckpoints, ModelParallelStrategy):
    """Fully sharded data parallel over all processes.

    Args:
        reshard_after_forward: free gathered parameters between forward and backward; False keeps them, which takes
            their memory and saves gathering them again.
        offload: keep the shards and the optimiser's state in the host's memory.
    """

    def __init__(self, reshard_after_forward: bool = True, offload: bool = False) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=True)
        self.reshard_after_forward, self.offload = reshard_after_forward, offload

    def setup_environment(self) -> None:
        """All processes share the parameters."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def _settings(self) -> dict[str, Any]:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy

        settings: dict[str, Any] = {
            "mesh": self.device_mesh["data_parallel"],
            "reshard_after_forward": self.reshard_after_forward,
        }
        if self.precision_plugin.precision == "bf16-mixed":
            # sums of gradients in float32: with hundreds of processes bf16 would lose small ones
            settings["mp_policy"] = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        if self.offload:
            settings["offload_policy"] = CPUOffloadPolicy()
        return settings

    @torch.no_grad()
    def place(self, model: TwinDiT, values: Values) -> None:
        """Shard the model on the meta device, then fill each process's rows: one value is whole at a time."""
        from torch.distributed.fsdp import fully_shard

        units = model.sharding_units()
        for unit in units:
            fully_shard(unit, **self._settings())
        # pairs of blocks are not children of the model, which would take their parameters for its own
        of_units = {p for unit in units for p in unit.parameters()}
        fully_shard(model, **self._settings(), ignored_params=of_units)
        device = torch.device("cpu") if self.offload else self.root_device
        model.to_empty(device=device)
        for name, owner, leaf, parameter in owned_parameters(model):
            local = parameter.to_local()  # type: ignore[attr-defined]
            if local.numel():
                from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

                held: Any = parameter
                _, offset = compute_local_shape_and_global_offset(
                    held.shape, held.device_mesh, held.placements
                )
                full = values(name, owner, leaf)
                local.copy_(full[offset[0] : offset[0] + local.shape[0]])

    def place_other(self, module: nn.Module) -> None:
        """Another trained module is a unit of its own: outside one, its gradients would not be averaged."""
        from torch.distributed.fsdp import fully_shard

        module.to(self.root_device)
        if any(p.requires_grad for p in module.parameters()):
            fully_shard(module, **self._settings())

    @property
    def needs_all_ranks(self) -> bool:
        return True

    def torch_optimizer(self) -> torch.optim.Optimizer | None:
        """The run's one optimiser."""
        return self.optimizers[0] if self.optimizers else None
