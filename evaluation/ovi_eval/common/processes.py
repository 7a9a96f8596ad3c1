"""Processes that score together under torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from ovi_eval.errors import UserError

T = TypeVar("T")
CPU = torch.device("cpu")


def rank() -> int:
    """This process's rank, 0 where there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered(value: T) -> list[T]:
    """The value of every process, in their order."""
    if world() == 1:
        return [value]
    found: list[T | None] = [None] * world()
    dist.all_gather_object(found, value)
    return [each for each in found if each is not None]


@contextmanager
def together() -> Iterator[None]:
    """Joins the processes that torchrun started for as long as the block lasts; alone, does nothing.

    Features are gathered on the CPU, so the processes meet through gloo whatever the device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or dist.is_initialized():
        yield
        return
    try:
        dist.init_process_group("gloo")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of torchrun could not meet: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """The device by name: `auto` is this process's GPU where there is one, else the CPU.

    Raises UserError for a device that is not here.
    """
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{place % max(torch.cuda.device_count(), 1)}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"device {name!r} is not used here; choose auto, cpu or cuda")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"device {name} is not here: this machine has {torch.cuda.device_count()} GPUs")
    except RuntimeError:
        raise UserError(f"device {name!r} is unknown; choose auto, cpu or cuda") from None
    return device
