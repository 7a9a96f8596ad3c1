"""Process 0 of many on machines of several GPUs, the others of which do not exist (PyTorch's fake process group)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import distributed

from ovi_lab.planning.cluster import PER_NODE


def nodes_of(gpus: int) -> tuple[int, int]:
    """Machines, and GPUs of each."""
    each = min(gpus, PER_NODE)
    return -(-gpus // each), each


@contextmanager
def rank_zero_of(gpus: int) -> Iterator[None]:
    """Inside, torch.distributed and the environment are those of rank 0 of `gpus`; nothing is sent."""
    if gpus == 1:
        yield
        return
    # registers the backend
    from torch.testing._internal.distributed import fake_pg  # noqa: F401

    each = nodes_of(gpus)[1]
    settings = {
        "RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0, "WORLD_SIZE": gpus, "LOCAL_WORLD_SIZE": each,
        "MASTER_ADDR": "localhost", "MASTER_PORT": 29500, "TORCHELASTIC_RUN_ID": "rehearsal",
    }  # fmt: skip
    os.environ.update({name: str(value) for name, value in settings.items()})
    distributed.init_process_group("fake", rank=0, world_size=gpus, store=distributed.HashStore())
    new_group = distributed.new_group

    def group(*arguments: Any, backend: Any = None, **named: Any) -> Any:
        return new_group(*arguments, **named)

    def all_gather_object(found: list[Any], own: Any, group: Any = None) -> None:
        found[:] = [own] * len(found)

    def gather_object(own: Any, found: list[Any] | None = None, *_: Any, **__: Any) -> None:
        if found is not None:
            found[:] = [own] * len(found)

    replaced = {
        "is_nccl_available": lambda: True,
        "new_group": group,
        "all_gather_object": all_gather_object,
        "gather_object": gather_object,
        "broadcast_object_list": lambda *_, **__: None,
    }
    before = {name: getattr(distributed, name) for name in replaced}
    for name, function in replaced.items():
        setattr(distributed, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(distributed, name, function)
        distributed.destroy_process_group()
        for name in settings:
            os.environ.pop(name, None)
