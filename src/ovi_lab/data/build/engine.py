"""Who works through the sources: this process, several on this machine, or a cluster by Ray Data.

An engine takes sources and gives their items as they are finished, in any order. What is written of a source does not
depend on the engine, nor on the number of its workers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

from ovi_lab.data.build.items import FinishedSource, SourceFile, make_item
from ovi_lab.data.build.recipe import Recipe
from ovi_lab.data.build.step import BuildStep
from ovi_lab.errors import UserError


@dataclass(frozen=True)
class Work:
    """What every worker needs to know."""

    folder: Path
    recipe: Recipe


class Worker:
    """One worker: its steps are set up once."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(1)  # sums over several threads are added up in another order
        self.work = work
        self.steps: list[BuildStep] = work.recipe.make_steps()
        for step in self.steps:
            step.setup()

    def __call__(self, source: SourceFile) -> FinishedSource:
        return make_item(source, self.work.folder, self.work.recipe, self.steps)


def run_here(sources: Sequence[SourceFile], work: Work, workers: int) -> Iterator[FinishedSource]:
    """Items by processes of this machine; by this process where one is enough.

    Raises UserError where a worker dies, as one that is out of memory does; what is finished stays.
    """
    if workers == 1 or len(sources) <= 1:
        threads = torch.get_num_threads()
        try:
            yield from map(Worker(work), sources)
        finally:
            torch.set_num_threads(threads)
        return
    workers = min(workers, len(sources))
    with ProcessPoolExecutor(workers, worker_context(), _start, (work,)) as pool:
        futures: list[Future[FinishedSource]] = [pool.submit(_make, source) for source in sources]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker of the build died (out of memory, or killed); what is finished is kept: the same command "
                "goes on, with fewer --workers where memory is short"
            ) from error
        finally:
            for future in futures:
                future.cancel()


def worker_context() -> ForkServerContext:
    """Of processes that work beside this one: forks of a server, since a fork of this process would share its threads.

    The server imports once what all of them need, and ends with this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


_worker: Worker | None = None


def _start(work: Work) -> None:
    global _worker
    _worker = Worker(work)


def _make(source: SourceFile) -> FinishedSource:
    if _worker is None:
        raise RuntimeError("the worker has not been started")
    return _worker(source)
