"""Values that the processes of a run exchange."""

from __future__ import annotations

from typing import Any

from torch import distributed


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
