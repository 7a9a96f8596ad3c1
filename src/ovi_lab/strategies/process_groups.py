"""Values that the processes of a run exchange."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed

_POLL_SECONDS = 0.05
_turns = itertools.count()
T = TypeVar("T")


def from_first(value: str) -> str:
    """The first process's value, on all of them."""
    if not started():
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def started() -> bool:
    """Whether there are several processes that can talk."""
    return bool(distributed.is_available() and distributed.is_initialized())


def everyone(value: Any) -> list[Any]:
    """Every process's value, on all of them."""
    if not started():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def alone_on_first(work: Callable[[], T]) -> T | None:
    """Run `work` on the first process while the others wait, however long it takes; every process calls it.

    They wait by reading the store of the process group: a collective would be ended by the group's timeout (ten minutes
    with NCCL).

    Returns:
        What `work` returns on the first process, None on the others.
    """
    if not started() or distributed.get_world_size() == 1:
        return work()
    store: Any = distributed.distributed_c10d._get_default_store()
    key = f"ovi_lab/alone_on_first/{next(_turns)}"
    if distributed.get_rank() == 0:
        try:
            return work()
        finally:
            store.set(key, "done")
    while not store.check([key]):
        time.sleep(_POLL_SECONDS)
    return None
