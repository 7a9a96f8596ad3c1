"""How a run uses its processes: one, DDP, DeepSpeed ZeRO 1 to 3 with offload, FSDP2, sequence parallelism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ovi_lab.common.fields import checked
from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError

NAMES = ("auto", "ddp", "zero", "fsdp2")
_OFFLOADS = (None, "cpu", "nvme")


def build_strategy(settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> Any:
    """Lightning's strategy object for a `strategy` configuration.

    Args:
        settings: `name` and what the strategy takes (see conf/strategy).
        trainer: the Trainer's settings: accelerator, devices and num_nodes.

    Raises:
        UserError: an unknown name or value, options that exclude each other, or a package that is missing.
    """
    values = dict(settings)
    name = values.pop("name", None)
    sequence = values.pop("sequence_parallel", 1)
    checked(Literal[NAMES], name, "strategy.name")
    check_settings("strategy", {"sequence_parallel": sequence})
    accelerator = _accelerator(trainer)
    processes = process_count(trainer)
    several = processes > 1
    _check_machine(name, values, processes, accelerator)
    try:
        if name == "zero":
            strategy = _zero(values, accelerator)
        elif name == "fsdp2":
            from ovi_lab.strategies.fsdp2 import FSDP2Strategy

            strategy = FSDP2Strategy(**values)
        elif name == "ddp" or several:
            from ovi_lab.strategies.replicated import ReplicatedProcesses

            # fused variants leave the other direction's parameters without use; all others take part in every step
            strategy = ReplicatedProcesses(gradient_as_bucket_view=True, broadcast_buffers=False, **values)
        else:
            from ovi_lab.strategies.replicated import SingleProcess

            strategy = SingleProcess(device=_device(trainer, accelerator), **values)
    except TypeError as error:
        raise UserError(f"strategy {name}: {str(error).split('() ')[-1]}; see conf/strategy") from error
    if sequence > 1 and not several:
        raise UserError(
            f"strategy.sequence_parallel is {sequence} with one process; set trainer.devices to a multiple of it"
        )
    strategy.sequence_parallel = sequence
    return strategy


def _check_machine(name: str, values: Mapping[str, Any], processes: int, accelerator: str) -> None:
    """Raises UserError for what these processes, or this build of torch, cannot do."""
    from torch import distributed

    lacking = None if distributed.is_available() else "torch.distributed"
    if lacking is None and accelerator == "gpu" and not distributed.is_nccl_available():
        lacking = "NCCL"
    if processes > 1 and lacking:
        raise UserError(
            f"{processes} processes need {lacking}, which this build of torch lacks: set trainer.devices=1, or install "
            "another build"
        )
    check_settings("strategy", {"shard_within": values.get("shard_within")})
    checked(Literal["video", "audio", None], values.get("keep_gathered"), "strategy.keep_gathered")
    for key in ("shard_within", "keep_gathered"):
        if values.get(key) is not None and name != "fsdp2" and values.get("stage") != 3:
            raise UserError(f"strategy.{key} is {values[key]}, which needs strategy=fsdp2 or strategy=zero3")
    within = values.get("shard_within") or 1
    if processes % within:
        raise UserError(
            f"strategy.shard_within is {within} with {processes} processes; expected a divisor of their number, as the "
            "GPUs of a node"
        )


def _zero(values: dict[str, Any], accelerator: str) -> Any:
    stage = values.get("stage")
    checked(Literal[1, 2, 3], stage, "strategy.stage")
    for key, kinds in (("gradient_dtype", ("fp32", None)), ("communication_dtype", ("fp32", "bf16", None))):
        checked(Literal[kinds], values.get(key), f"strategy.{key}")
    for key in ("offload_optimizer", "offload_parameters"):
        if values.get(key) not in _OFFLOADS:
            raise UserError(f"strategy.{key} is {values[key]!r}; expected cpu, nvme or null")
    if values.get("offload_parameters") and stage != 3:
        raise UserError(f"strategy.offload_parameters needs strategy.stage=3, and it is {stage}")
    if "nvme" in (values.get("offload_optimizer"), values.get("offload_parameters")):
        if not values.get("nvme_path"):
            raise UserError("offload to nvme needs strategy.nvme_path: a folder on a fast local disk")
        if stage != 3:
            raise UserError(f"offload to nvme needs strategy.stage=3, and it is {stage}")
    from ovi_lab.strategies.zero import ZeroStrategy, can_offload_to_disk

    if (
        "nvme" in (values.get("offload_optimizer"), values.get("offload_parameters"))
        and not can_offload_to_disk()
    ):
        raise UserError(
            "offload to nvme needs DeepSpeed's async_io, which cannot be compiled here: install libaio (libaio-dev), a "
            "C++ compiler and ninja, or choose strategy=zero3_offload"
        )
    return ZeroStrategy(**values, accelerator=accelerator)


def _accelerator(trainer: Mapping[str, Any]) -> str:
    import torch

    name = str(trainer.get("accelerator", "cpu"))
    return "gpu" if name in ("gpu", "cuda") or (name == "auto" and torch.cuda.is_available()) else "cpu"


def _device(trainer: Mapping[str, Any], accelerator: str) -> str:
    """The one device: by its number where `devices` is a list of one."""
    devices = trainer.get("devices", 1)
    named = devices if isinstance(devices, list | tuple) else str(devices).rstrip(",").split(",")
    is_list = isinstance(devices, list | tuple) or "," in str(devices)
    return f"cuda:{named[0] if is_list else 0}" if accelerator == "gpu" else "cpu"


def process_count(trainer: Mapping[str, Any]) -> int:
    """Processes of a run with these settings of the Trainer, on all machines."""
    import torch

    accelerator = _accelerator(trainer)
    devices = trainer.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        count = torch.cuda.device_count() if accelerator == "gpu" else 1
    elif isinstance(devices, int | str):
        count = int(devices) if str(devices).isdigit() else len(str(devices).split(","))
    else:
        count = len(devices)
    return max(1, count) * int(trainer.get("num_nodes", 1))
