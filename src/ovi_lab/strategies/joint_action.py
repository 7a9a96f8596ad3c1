"""A place in a loop at which all processes act together, agreed on without one waiting for another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from torch import distributed

from ovi_lab.strategies.process_groups import shared_store, started

_made = itertools.count()


class JointAction:
    """All processes of a loop act at the same index of it, where any of them wishes to.

    They talk through the key-value store over which torch.distributed made its groups: on the CPU, over a connection
    that exists, with nothing sent on the training's groups. While nobody wishes anything, an index costs one look at
    one key (30 to 40 microseconds on one machine), and no process ever waits for another: under a strategy whose
    processes exchange something in every iteration, one that waited outside would stop those that it waits for.

    A process that wishes something, or sees that another does, reports its wishes and its horizon: the next index,
    which it leaves behind only with the answer, or once it has raised the common floor beyond. The last one to report
    answers with the largest wishes, at the largest of floor and horizons, which no process has passed. Floor and answer
    are one key, which is changed atomically. So processes that exchange something in every iteration act at most two
    indices after the first one that wishes something, and one after it where all wish at the same index; processes that
    run freely act soon after the one that is furthest ahead when the slowest reports.

    Args:
        store: torch.distributed's; None: there is one process.
        rank, world: this process and how many there are.
    """

    def __init__(self, store: Any, rank: int = 0, world: int = 1) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._round = 0
        self._horizon: int | None = None
        self._agreed: list[int] = []
        """Index, then the largest wishes; empty where nothing is agreed on."""

    @classmethod
    def of_all(cls, name: str) -> JointAction:
        """Between all processes; each calls it as often as the others."""
        number = next(_made)
        if not started() or distributed.get_world_size() == 1:
            return cls(None)
        store: Any = shared_store(f"{name}/{number}")
        return cls(store, distributed.get_rank(), distributed.get_world_size())

    def at(self, index: int, *wishes: int) -> tuple[int, ...]:
        """The largest wish of any process where all act at this index, else 0, for each of the wishes.

        Every process calls it at every index, counted from the same beginning.

        Args:
            index: of the loop.
            wishes: of this process, 0 for none.
        """
        if self._store is None:
            return wishes
        if not self._agreed:
            self._look(index, wishes)
        if not self._agreed or index < self._agreed[0]:
            return (0,) * len(wishes)
        _, *agreed = self._agreed
        self._agreed, self._horizon = [], None
        self._round += 1
        return tuple(agreed)

    def _look(self, index: int, wishes: Sequence[int]) -> None:
        """Report where there is something to agree on; later read the answer, or raise the floor."""
        if self._horizon is not None:
            self._settle([index + 1] if index >= self._horizon else [])
            return
        if any(wishes):
            self._store.set(self._key("asked"), "1")
        elif not self._store.check([self._key("asked")]):
            return
        self._horizon = index + 1
        self._store.set(self._key(self._rank), json.dumps([self._horizon, *wishes]))
        last = self._store.add(self._key("reports"), 1) == self._world
        reports = (
            [json.loads(self._store.get(self._key(rank))) for rank in range(self._world)] if last else []
        )
        self._settle([max(values) for values in zip(*reports, strict=True)])

    def _settle(self, wanted: Sequence[int]) -> None:
        """Raise the floor to [index] or answer with [index, wishes …], unless there is an answer; then read that."""
        key = self._key("state")
        known = self._store.get(key).decode() if self._store.check([key]) else ""
        while True:
            floor, *answer = json.loads(known or "[0]")
            if answer:
                self._agreed = [floor, *answer]
                return
            if not wanted:
                return
            index = max(floor, wanted[0])
            state = json.dumps([index, *wanted[1:]])
            if state != known:
                known = self._store.compare_set(key, known, state).decode()
            if known == state and len(wanted) == 1:
                self._horizon = index
                return

    def _key(self, what: object) -> str:
        return f"{self._round}/{what}"
