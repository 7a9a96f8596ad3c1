"""How processes share the work besides the parameters: who sees which data, and who computes a clip together."""

from __future__ import annotations

from typing import Any

from torch import distributed

from ovi_lab.models import TwinDiT


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


class DataPlaces:
    """Mixin for a Lightning strategy: the processes of a sequence-parallel group see the same data.

    `sequence_parallel` processes with successive ranks compute each clip together (see `models.sequence_parallel`).
    """

    sequence_parallel: int = 1
    global_rank: int
    world_size: int

    @property
    def data_place(self) -> tuple[int, int]:
        """Which part of the data this process sees, and of how many."""
        return self.global_rank // self.sequence_parallel, self.world_size // self.sequence_parallel

    def share_sequences(self, model: TwinDiT) -> None:
        """From now on the processes of a group compute each clip together; every process calls it, once."""
        if self.sequence_parallel > 1:
            from ovi_lab.models.sequence_parallel import enable_sequence_parallel, sequence_group

            enable_sequence_parallel(model, sequence_group(self.sequence_parallel))


def everyone(value: Any) -> list[Any]:
    """Every process's value, on all of them."""
    if not started():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
