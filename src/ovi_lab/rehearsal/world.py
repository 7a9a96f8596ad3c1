"""Process 0 of many on machines of several GPUs, the others of which do not exist (PyTorch's fake process group)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import distributed as parallel

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

    make = parallel.DistributedDataParallel.__init__

    def made(self: parallel.DistributedDataParallel, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        distributed._register_comm_hook(self.reducer, None, _averaged)

    def all_gather_object(found: list[Any], own: Any, group: Any = None) -> None:
        found[:] = [own] * len(found)

    def gather_object(own: Any, found: list[Any] | None = None, *_: Any, **__: Any) -> None:
        if found is not None:
            found[:] = [own] * len(found)

    replaced: dict[tuple[Any, str], Callable[..., Any]] = {
        (distributed, "is_nccl_available"): lambda: True,
        (distributed, "new_group"): group,
        (distributed, "all_gather_object"): all_gather_object,
        (distributed, "gather_object"): gather_object,
        (distributed, "broadcast_object_list"): lambda *_, **__: None,
        # DDP compares its parameters with those of the others, from which nothing comes, and gets no result of its own
        # all-reduce
        (parallel, "_verify_param_shape_across_processes"): lambda *_, **__: None,
        (parallel.DistributedDataParallel, "__init__"): made,
    }
    before = {place: getattr(*place) for place in replaced}
    for place, function in replaced.items():
        setattr(*place, function)
    try:
        yield
    finally:
        for place, function in before.items():
            setattr(*place, function)
        distributed.destroy_process_group()
        for name in settings:
            os.environ.pop(name, None)


def _averaged(_: None, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """What DDP does with a bucket of gradients that is full."""
    gradients = bucket.buffer().div_(distributed.get_world_size())
    distributed.all_reduce(gradients)
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(gradients)
    return done
