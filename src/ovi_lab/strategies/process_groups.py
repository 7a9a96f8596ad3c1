"""Values that the processes of a run exchange."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import distributed

from ovi_lab.errors import UserError

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


def shared_store(name: str) -> Any:
    """The part `name` of the process group's store; empty at each start, since torchrun may keep the store of the
    processes that died."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(
        f"ovi_lab/{attempt}/{name}", distributed.distributed_c10d._get_default_store()
    )


def alone_on_first(work: Callable[[], T]) -> T | None:
    """Run `work` on the first process while the others wait, however long it takes; every process calls it.

    They wait by reading the store of the process group: a collective would be ended by the group's timeout (ten minutes
    with NCCL).

    Returns:
        What `work` returns on the first process, None on the others.
    """
    if not started() or distributed.get_world_size() == 1:
        return work()
    store, key = shared_store("alone_on_first"), str(next(_turns))
    if distributed.get_rank() == 0:
        try:
            return work()
        finally:
            store.set(key, "done")
    while not store.check([key]):
        time.sleep(_POLL_SECONDS)
    return None


@contextmanager
def raised_together() -> Iterator[None]:
    """A UserError within the block on any process is raised by all after it, where they would wait for each other.

    Every process enters it.
    """
    problem: UserError | None = None
    try:
        yield
    except UserError as error:
        problem = error
    found = [text for text in everyone(None if problem is None else str(problem)) if text is not None]
    if problem is not None:
        raise problem
    if found:
        raise UserError(found[0])
