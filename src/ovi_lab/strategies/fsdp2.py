"""PyTorch's FSDP2: parameters, gradients and optimiser state sharded by rows, gathered a block at a time.

A unit is a pair of blocks of both towers (or a block of a lone one); what surrounds them is the root unit.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from ovi_lab.models import TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.strategies.initial_values import Values, owned_parameters
from ovi_lab.strategies.kept_tower import KeptTowerPair, check_kept
from ovi_lab.strategies.process_groups import raised_together
from ovi_lab.strategies.sharded_checkpoints import ShardedCheckpoints
from ovi_lab.strategies.shares import Shares, TorchShares


class FSDP2Strategy(ShardedCheckpoints, ModelParallelStrategy):
    """Fully sharded data parallel over all processes, or within groups of them that are replicas of each other.

    Args:
        reshard_after_forward: free gathered parameters between forward and backward; False keeps them, which takes
            their memory and saves gathering them again.
        offload: keep the shards and the optimiser's state in the host's memory.
        shard_within: processes with successive ranks, as those of a node, that share the parameters; gradients are then
            averaged over these groups. None: all processes.
        keep_gathered: a tower (`audio`) whose blocks are gathered once in an optimiser step instead of twice in each of
            its micro-batches. None: neither.
    """

    def __init__(
        self,
        reshard_after_forward: bool = True,
        offload: bool = False,
        shard_within: int | None = None,
        keep_gathered: Modality | None = None,
    ) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=True)
        self.reshard_after_forward, self.offload = reshard_after_forward, offload
        self.shard_within, self.keep_gathered = shard_within, keep_gathered
        self._kept: list[KeptTowerPair] = []
        self._mesh: Any = None

    def setup_environment(self) -> None:
        """All processes share the parameters, or those of a row of the mesh do."""
        from torch.distributed.device_mesh import init_device_mesh

        self._data_parallel_size = self.num_nodes * self.num_processes
        if self.precision_plugin.precision == "bf16-mixed":
            self.precision_plugin = _GatheredInBf16()
        super().setup_environment()
        within = self.shard_within or self.world_size
        if within == self.world_size:
            self._mesh = self.device_mesh["data_parallel"]
        else:
            shape = (self.world_size // within, within)
            self._mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicas", "shards"))

    def _settings(self) -> dict[str, Any]:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy

        settings: dict[str, Any] = {"mesh": self._mesh, "reshard_after_forward": self.reshard_after_forward}
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
        """Shard the model on the meta device, then fill each process's rows, which alone are read from files."""
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        if self.keep_gathered is not None:
            check_kept(model, self.keep_gathered)
            self._kept = [KeptTowerPair(pair, self.keep_gathered) for pair in model.twin_blocks]
            model.twin_blocks = list[Any](self._kept)
        units = model.sharding_units()
        for unit in units:
            if isinstance(unit, KeptTowerPair):
                unit.shard(self._settings())
            else:
                fully_shard(unit, **self._settings())
                register_fsdp_forward_method(unit, "open")
        # pairs of blocks are not children of the model, which would take their parameters for its own
        of_units = {p for unit in units for p in unit.parameters()}
        fully_shard(model, **self._settings(), ignored_params=of_units)
        # what sampling calls besides `forward`; a block's keys and values are left to its own pass
        model.gathers_blocks = True
        register_fsdp_forward_method(model, "prepare_text")
        model.to_empty(device=torch.device("cpu") if self.offload else self.root_device)
        with raised_together():
            for name, owner, leaf, parameter in owned_parameters(model):
                self._fill(parameter, values, name, owner, leaf)

    @staticmethod
    def _fill(parameter: Any, values: Values, name: str, owner: nn.Module, leaf: str) -> None:
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        local = parameter.to_local()
        if local.numel():
            _, (start, *_) = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
            local.copy_(values(name, owner, leaf, slice(start, start + local.shape[0])))

    def place_other(self, module: nn.Module) -> None:
        """Another trained module is a unit of its own: outside one, its gradients would not be averaged."""
        from torch.distributed.fsdp import fully_shard

        module.to(self.root_device)
        if any(p.requires_grad for p in module.parameters()):
            fully_shard(module, **self._settings())

    def model_to_device(self) -> None:
        """What is offloaded stays in the host's memory, and was placed there; the rest was placed, too."""
        if not self.offload:
            super().model_to_device()

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """What stays gathered is freed by the last backward pass of a step."""
        for unit in self._kept:
            unit.free_after_backward(not self.lightning_module.trainer.fit_loop._should_accumulate())
        return super().backward(closure_loss, optimizer, *args, **kwargs)

    @property
    def needs_all_ranks(self) -> bool:
        return True

    def torch_optimizer(self) -> torch.optim.Optimizer | None:
        """The run's one optimiser."""
        return self.optimizers[0] if self.optimizers else None

    def _make_shares(self) -> Shares:
        return _GatheredShares(self.lightning_module, self.torch_optimizer())


class _GatheredInBf16(Precision):
    """bf16-mixed where FSDP gathers the float32 parameters in bf16: autocast on top of it would compute normalisations
    in float32, with a copy of the stream before each and one after it."""

    precision: Any = "bf16-mixed"


class _GatheredShares(TorchShares):
    """Shares whose gathered copies, where some are kept after a pass, are freed before other values are shown."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        super().__init__(module, optimizer, torch.distributed.get_rank() == 0)
        from torch.distributed.fsdp import FSDPModule

        self._units = [part for part in module.modules() if isinstance(part, FSDPModule)]

    def _free(self) -> None:
        for unit in self._units:
            unit.reshard()

    def show(self, values: Any) -> None:
        self._free()
        super().show(values)

    def hide(self) -> None:
        self._free()
        super().hide()

    def publish(self) -> None:
        self._free()
