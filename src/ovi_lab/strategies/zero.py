"""DeepSpeed ZeRO (Rajbhandari et al., arXiv 1910.02054) under Lightning, on GPUs and on processes of a CPU alike.

Stage 1 partitions the optimiser's state, stage 2 also gradients, stage 3 also parameters. Frozen parameters have no
gradient nor optimiser state, so only stage 3 touches them: it partitions them and gathers them where they are used.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.plugins.precision.deepspeed import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from ovi_eval.common.installation import install_hint
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.strategies.cpu_adam import cpu_adam_where_possible
from ovi_lab.strategies.initial_values import Values, owned_parameters, place_whole
from ovi_lab.strategies.kept_tower import check_kept
from ovi_lab.strategies.sharded_checkpoints import ShardedCheckpoints
from ovi_lab.strategies.shares import Shares
from ovi_lab.strategies.whole_blocks import gathered_by_block
from ovi_lab.strategies.zero_shares import PartitionedZeroShares, ReplicatedZeroShares, ZeroShares


class ZeroPrecision(DeepSpeedPrecision):
    """DeepSpeed's precision, less what harms here."""

    def convert_input(self, data: Any) -> Any:
        """As it is: noise and targets are made in float32, and the towers convert what they take."""
        return data

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Lightning has divided the loss by the accumulated batches already; DeepSpeed would do so again."""
        model.trainer.model.backward(tensor, *args, scale_wrt_gas=False, **kwargs)


class ZeroStrategy(ShardedCheckpoints, DeepSpeedStrategy):
    """ZeRO of any stage.

    Args:
        stage: 1, 2 or 3.
        offload_optimizer: `cpu` or `nvme`: where the optimiser's state lives; None: on the device.
        offload_parameters: the same for the parameters, stage 3 only.
        nvme_path: folder on a fast disk, for `nvme`.
        bucket: values that are reduced or gathered at once.
        gradient_dtype: in which gradients are accumulated: `fp32`; None: the network's.
        communication_dtype: of gradients while they are reduced: `fp32`, `bf16`; None: as they are accumulated.
        shard_within: stage 3: processes with successive ranks, as those of a node, that keep a second copy of all
            parameters between them (hpZ, Wang et al., arXiv 2306.10209), from which the backward pass gathers.
        keep_gathered: stage 3: a tower (`audio`) whose parameters are gathered once in an optimiser step instead of
            twice in each of its micro-batches.
        accelerator: `gpu`, or `cpu` for processes without one.
    """

    def __init__(
        self,
        stage: int,
        offload_optimizer: str | None = None,
        offload_parameters: str | None = None,
        nvme_path: str | None = None,
        bucket: int = 200_000_000,
        gradient_dtype: str | None = "fp32",
        communication_dtype: str | None = None,
        shard_within: int | None = None,
        keep_gathered: Modality | None = None,
        accelerator: str = "gpu",
    ) -> None:
        on_cpu = accelerator == "cpu"
        if on_cpu:
            os.environ["DS_ACCELERATOR"] = "cpu"
        elif os.environ.get("DS_ACCELERATOR") == "cpu":  # left by a run on CPUs that started this process
            del os.environ["DS_ACCELERATOR"]
        _import_deepspeed()
        zero: dict[str, Any] = {
            "stage": stage,
            "reduce_bucket_size": min(bucket, 5_000_000) if on_cpu else bucket,
            "allgather_bucket_size": min(bucket, 5_000_000) if on_cpu else bucket,
            "overlap_comm": not on_cpu,
            "contiguous_gradients": True,
        }
        if stage == 3:
            zero["stage3_prefetch_bucket_size"] = zero["reduce_bucket_size"] // 4
            zero["stage3_max_live_parameters"] = 1_000_000_000
            # models that a CPU trains have smaller parameters than DeepSpeed leaves whole
            zero["stage3_param_persistence_threshold"] = 100 if on_cpu else 100_000
            zero["zero_hpz_partition_size"] = shard_within or 1
        places = {"offload_optimizer": offload_optimizer, "offload_param": offload_parameters}
        for key, device in places.items():
            if device is not None:
                zero[key] = {"device": device, "pin_memory": not on_cpu}
                if device == "nvme":
                    zero[key]["nvme_path"] = nvme_path
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's own throughput lines read it
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }
        if gradient_dtype is not None:
            config["data_types"] = {"grad_accum_dtype": gradient_dtype}
        if (communicated := communication_dtype or gradient_dtype) is not None:
            config["communication_data_type"] = communicated
        super().__init__(config=config, logging_level=logging.ERROR)
        self.stage, self._on_cpu, self.keep_gathered = stage, on_cpu, keep_gathered
        self._offloads_optimizer = offload_optimizer is not None
        self._steps_in_host_memory = offload_optimizer == "cpu" and not on_cpu
        self._engine: Any = None
        self._compiled: TwinDiT | None = None
        """The model, where its blocks are compiled and their parameters partitioned."""

    # ---- processes

    def setup_environment(self) -> None:
        """Lightning refuses DeepSpeed without CUDA; on a CPU it works all the same."""
        self.precision_plugin = ZeroPrecision(self.precision_plugin.precision)
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_environment()
        else:
            DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Ranks first: without a GPU there is no device index to check."""
        if not self._on_cpu:
            super().setup_distributed()
            return
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        import deepspeed

        around = nullcontext() if self._compiled is None else gathered_by_block(self._compiled)
        with _one_kind_of_optimizer(), around:
            engine, zero, _, _ = deepspeed.initialize(
                args=argparse.Namespace(device_rank=self.local_rank),
                config=self.config,
                model=model,
                model_parameters=[p for p in model.parameters() if p.requires_grad],
                optimizer=optimizer,
                lr_scheduler=lr_scheduler,
                dist_init_required=False,
            )
        self._engine = engine
        if self.keep_gathered is not None:
            self._keep_gathered(f".{self.keep_gathered}_model.blocks.")
        return engine, zero

    def _keep_gathered(self, part: str) -> None:
        """Add parameters to those that DeepSpeed gathers after each step for the whole of the next one."""
        persistent: list[Any] = self._engine.optimizer.persistent_parameters
        more: list[Any] = [p for n, p in self.lightning_module.named_parameters() if part in n]
        for parameter in more:
            parameter.ds_persist = True
        persistent += [p for p in more if all(p is not own for own in persistent)]
        persistent[0].all_gather(persistent)

    def setup(self, trainer: Any) -> None:
        """Set up training; what comes after it in the same process uses the same engine."""
        if trainer.state.fn != TrainerFn.FITTING and self._engine is not None:
            self.model = self._engine
            return
        super().setup(trainer)

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """As for training: DeepSpeed's engine without an optimiser knows no shares, which a checkpoint's weights and
        averages are read into."""
        self._initialize_deepspeed_train(model)

    def teardown(self) -> None:
        """Parameters stay where DeepSpeed has them: moving the module would tear them from its optimiser."""
        if self.cluster_environment is not None:
            self.cluster_environment.teardown()

    # ---- the model

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Nothing: `place` partitions parameters one module after the other."""
        yield

    @property
    def network_dtype(self) -> torch.dtype:
        """Of the parameters that the network computes with; the optimiser steps float32."""
        return torch.bfloat16 if self.precision_plugin.precision.startswith("bf16") else torch.float32

    @torch.no_grad()
    def place(self, model: TwinDiT, values: Values) -> None:
        """Parameters with values: whole on the device (stages 1 and 2), or partitioned as soon as they are made."""
        self._compiled = model if self.stage == 3 and model.compiled is not None else None
        if self.keep_gathered is not None:
            check_kept(model, self.keep_gathered)
        if self.stage < 3:
            place_whole(model, values, self.root_device, self.network_dtype)
            return
        import deepspeed

        self._init_config_if_needed()
        dealer: Any = None
        by_owner: dict[int, tuple[nn.Module, list[tuple[str, str, nn.Parameter]]]] = {}
        for name, owner, leaf, parameter in owned_parameters(model):
            by_owner.setdefault(id(owner), (owner, []))[1].append((name, leaf, parameter))
        for owner, held in by_owner.values():
            fresh = []
            for name, leaf, parameter in held:
                # DeepSpeed broadcasts the first process's values: the others need not read or draw them
                value = torch.zeros(parameter.shape, dtype=self.network_dtype, device=self.root_device)
                if self.is_global_zero:
                    value.copy_(values(name, owner, leaf))
                new = nn.Parameter(value, requires_grad=parameter.requires_grad)
                setattr(owner, leaf, new)
                fresh.append(new)
                del value
            if dealer is None:
                alone = nn.ParameterList(fresh)
                deepspeed.zero.Init(module=alone, config_dict_or_path=self.config)
                dealer = fresh[0]
            else:
                dealer.convert_to_zero_parameters(param_list=fresh)

    def place_other(self, module: nn.Module) -> None:
        """Another trained module, such as a text encoder: small, so DeepSpeed partitions it when it sets up."""
        module.to(self.root_device, self.network_dtype)

    @property
    def needs_all_ranks(self) -> bool:
        return self.stage == 3

    def _make_shares(self) -> Shares:
        if self.stage == 3:
            return PartitionedZeroShares(self.lightning_module, self._engine)
        return ReplicatedZeroShares(self.lightning_module, self._engine, self.is_global_zero)

    # ---- steps

    def optimizer_factory(self, factory: Callable[..., Any]) -> Callable[..., Any]:
        """DeepSpeed's own where the state is offloaded."""
        if self._steps_in_host_memory:
            return cpu_adam_where_possible(factory)
        return factory if self._offloads_optimizer else super().optimizer_factory(factory)

    @property
    def gradient_scale(self) -> float:
        return float(getattr(self._engine.optimizer, "loss_scale", 1.0))

    @property
    def scales_losses(self) -> bool:
        return bool(self._engine.optimizer.dtype == torch.float16)

    def allow_discarding(self) -> None:
        """Let DeepSpeed look for overflows in every precision; otherwise it applies a bf16 or fp32 NaN."""
        self._engine.optimizer.check_grad_overflow = True

    def discard_step(self, step: int) -> None:
        """Make a gradient NaN: DeepSpeed, which clips and steps by itself, discards that step as an overflow."""
        self.discarded_at = step
        cast("ZeroShares", self.shares()).spoil_smallest_gradient()

    @property
    def has_discarded(self) -> bool:
        return bool(self._engine.optimizer.overflow)

    def torch_optimizer(self) -> torch.optim.Optimizer | None:
        """The one that DeepSpeed wraps."""
        return cast("torch.optim.Optimizer", self._engine.optimizer.optimizer)


@contextmanager
def _one_kind_of_optimizer() -> Iterator[None]:
    """Within the block DeepSpeed takes its optimiser of stages 1 and 2 for stage 1 in every type.

    For bf16 with gradients in float32 it would take another one, which discards no step and all-reduces every gradient;
    this one accumulates in float32 as well.
    """
    from deepspeed.runtime.engine import ZERO_OPTIMIZATION, DeepSpeedEngine

    checked: Any = DeepSpeedEngine._do_optimizer_sanity_check
    setattr(DeepSpeedEngine, checked.__name__, lambda engine, optimizer: ZERO_OPTIMIZATION)
    try:
        yield
    finally:
        setattr(DeepSpeedEngine, checked.__name__, checked)


def can_offload_to_disk() -> bool:
    """Whether DeepSpeed finds what its asynchronous reading and writing of files takes."""
    _import_deepspeed()
    from deepspeed.ops.op_builder import AsyncIOBuilder

    return bool(AsyncIOBuilder().is_compatible(verbose=False))


def _import_deepspeed() -> None:
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(f"strategy=zero… needs DeepSpeed: {install_hint('deepspeed')}") from error
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # its shared-memory collectives would be compiled first; gloo does the same
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
