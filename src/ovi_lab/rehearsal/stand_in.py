"""`torch.cuda` of a machine whose GPUs run nothing: what PyTorch, Lightning, DeepSpeed and this code ask of it.

The tensors themselves are `Watch`'s work; here are devices, streams, events, memory numbers and random states. All is
replaced for the whole process, which does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch


@dataclass(frozen=True)
class Machine:
    """What the machine says it has."""

    gpus: int = 1
    """Of this host."""
    memory: int = 80 * 2**30
    name: str = "NVIDIA H100 80GB HBM3"


class Stream(torch.Stream):
    """A stream of the device: PyTorch's own class, with the methods of CUDA's that it lacks."""

    def __new__(cls, device: Any = None, priority: int = 0, **_: Any) -> Stream:
        made: Any = super().__new__(cls, device="cuda:0", priority=priority)
        return made

    @property
    def cuda_stream(self) -> int:
        return int(self.stream_id)


class Event(torch.Event):
    """An event of the device; always over."""

    def __new__(cls, *_: Any, **__: Any) -> Event:
        made: Any = super().__new__(cls, device="cuda:0")
        return made

    def record(self, stream: Any = None) -> None:
        """Nothing runs, so nothing is waited for."""

    def wait(self, stream: Any = None) -> None:
        """Nothing."""

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 1.0


@contextmanager
def _stream(stream: Any) -> Any:
    yield


def install(
    machine: Machine, waited: Callable[[str], None], allocated: Callable[[], tuple[int, int]]
) -> None:
    """Make this process one of `machine`.

    Args:
        machine: its devices.
        waited: called with what the host waits for, as in `torch.cuda.synchronize`.
        allocated: bytes alive, and their peak.
    """
    cuda: Any = torch.cuda
    only = Stream()

    def wait(name: str) -> Callable[..., None]:
        return lambda *_, **__: waited(name)

    properties = SimpleNamespace(
        name=machine.name, major=9, minor=0, total_memory=machine.memory, multi_processor_count=132
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "_is_compiled": True,
        "device_count": machine.gpus,
        "_device_count_nvml": machine.gpus,
        "current_device": 0,
        "get_device_name": machine.name,
        "get_device_capability": (9, 0),
        "get_device_properties": properties,
        "get_arch_list": ["sm_90"],
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "memory_reserved": 0,
        "max_memory_reserved": 0,
        "memory_stats": {},
        "current_blas_handle": 0,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
    }
    for name, value in answers.items():
        setattr(cuda, name, lambda *_, value=value, **__: value)
    for name in (
        "init", "_lazy_init", "_lazy_call", "set_device", "set_stream", "empty_cache", "ipc_collect", "manual_seed",
        "manual_seed_all", "seed", "seed_all", "set_rng_state", "set_rng_state_all", "reset_peak_memory_stats",
        "reset_accumulated_memory_stats", "set_sync_debug_mode",
    ):  # fmt: skip
        setattr(cuda, name, lambda *_, **__: None)
    for name in ("range_push", "range_pop", "mark", "range_start", "range_end"):
        setattr(cuda.nvtx, name, lambda *_, **__: 0)
    cuda.memory_allocated = lambda *_: allocated()[0]
    cuda.max_memory_allocated = lambda *_: allocated()[1]
    cuda.mem_get_info = lambda *_: (machine.memory - allocated()[0], machine.memory)
    cuda.get_rng_state = lambda *_: torch.zeros(16, dtype=torch.uint8)
    cuda.get_rng_state_all = lambda: [cuda.get_rng_state() for _ in range(machine.gpus)]
    cuda.current_stream = cuda.default_stream = lambda *_: only
    cuda.stream = cuda.StreamContext = _stream
    cuda.device = lambda *_: nullcontext()
    cuda.Stream, cuda.Event = Stream, Event
    cuda.synchronize = wait("torch.cuda.synchronize")
    Stream.synchronize = wait("Stream.synchronize")  # type: ignore[method-assign]
    Event.synchronize = wait("Event.synchronize")  # type: ignore[method-assign]
    for name in ("_fused_rms_norm", "_fused_rms_norm_backward"):
        _KERNELS_OF_CUDA.impl(name, _not_run, "CUDA")


_KERNELS_OF_CUDA = torch.library.Library("aten", "IMPL")
"""Kernels of a build for CUDA, which a build for CPUs takes apart into many."""


def _not_run(*_: Any) -> Any:
    raise RuntimeError("a kernel of the GPU was called with data, and there is no GPU")
