"""Batches made ready, and moved to the device, while the step before them runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

_END = object()


class Prefetcher(Iterator[Any], AbstractContextManager["Prefetcher"]):
    """The batches of `source` in its order, up to `depth` of them read ahead in a thread of their own.

        with Prefetcher(source, depth=2, device=device) as batches:
            for batch in batches: ...

    For a CUDA device a batch's tensors are pinned and copied in a stream beside the one that computes, which waits
    only for the copy of the batch it is about to use. What the source raises is raised where its batch would have
    come. Leaving the block, or deleting an iterator halfway, ends the thread.

    Args:
        source: the batches; nothing else may iterate over it meanwhile.
        depth: batches ahead; 0 reads each when it is requested.
        device: where batches are to be; None, or a device that is no GPU, leaves them where they are.
    """

    def __init__(self, source: Iterator[Any], depth: int = 0, device: torch.device | None = None) -> None:
        self._source, self._depth = source, depth
        self._device = device if device is not None and device.type == "cuda" else None
        self._stream = None if self._device is None else torch.cuda.Stream(self._device)
        self._pool = ThreadPoolExecutor(1, "data prefetch") if depth else None
        self._ahead: deque[Future[Any]] = deque()
        self.waited_s = 0.0
        """Seconds that the consumer of the batches has waited for them."""

    def __exit__(self, *error: object) -> None:
        """Discard batches read ahead, and end the source's workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()
        self._source = iter(())

    def __next__(self) -> Any:
        before = time.perf_counter()
        if self._pool is None:
            ready = self._read()
        else:
            while len(self._ahead) < self._depth:
                self._ahead.append(self._pool.submit(self._read))
            ready = self._ahead.popleft().result()
            self._ahead.append(self._pool.submit(self._read))
        self.waited_s += time.perf_counter() - before
        batch, copied = ready
        if batch is _END:
            raise StopIteration
        if copied is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(copied)
            # Its memory belongs to the copying stream, which must not reuse it before the step has read it.
            apply_to_collection(batch, Tensor, lambda tensor: tensor.record_stream(computing))
        return batch

    def _read(self) -> tuple[Any, Any]:
        batch = next(self._source, _END)
        if self._stream is None or batch is _END:
            return batch, None
        with torch.cuda.stream(self._stream):
            batch = apply_to_collection(batch, Tensor, self._copy)
            return batch, self._stream.record_event()

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self._device, non_blocking=True)
