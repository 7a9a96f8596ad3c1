"""The GPU that `device=cuda` measures: its name, its memory, its waits."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ovi_lab.errors import UserError
from ovi_lab.rehearsal.lines import line_of_code


def check_gpu() -> None:
    """Raises UserError where there is none."""
    if not torch.cuda.is_available():
        raise UserError(
            "device=cuda measures on a GPU, and torch finds none here: leave device out to rehearse without one"
        )


class MeasuredGpu:
    """The first GPU. All that measuring asks of it is here, so that its code runs on other devices in tests.

    Raises UserError where there is none.
    """

    accelerator = "gpu"

    def __init__(self) -> None:
        check_gpu()
        self.device = torch.device("cuda", 0)
        self.name = torch.cuda.get_device_name(self.device)
        self.free, self.memory = torch.cuda.mem_get_info(self.device)
        """Bytes, as this process found them."""

    def wait(self) -> None:
        """Until all that it was given is done."""
        torch.cuda.synchronize(self.device)

    def forget_peaks(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def held(self) -> int:
        """Bytes allocated now."""
        return torch.cuda.memory_allocated(self.device)

    def peaks(self) -> tuple[int, int]:
        """Most bytes allocated, and most reserved by the allocator, since `forget_peaks`."""
        return torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)

    def release(self) -> None:
        """Give the allocator's unused memory back."""
        torch.cuda.empty_cache()

    @contextmanager
    def waits(self, found: Counter[str]) -> Iterator[None]:
        """Within the block, counts where the host waits for it, as PyTorch's synchronisation debug mode reports it."""
        with waits_heard(found):
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")


@contextmanager
def waits_heard(found: Counter[str]) -> Iterator[None]:
    """Within the block, counts PyTorch's warnings of waits by line; other warnings are dropped."""

    def heard(message: Warning | str, *_: object, **__: object) -> None:
        if "synchronizing CUDA operation" in str(message):
            found[line_of_code()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = heard
        yield


class DrawnValues:
    """In place of `ParameterValues`: values drawn on the device, as zeros would take less power and so less time."""

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(0)
        self._device = device

    def __call__(self, name: str, owner: nn.Module, leaf: str, rows: slice | None = None) -> Tensor:
        shape = owner.get_parameter(leaf).shape
        if len(shape) < 2:
            value = torch.full(shape, float(leaf.endswith("weight")), device=self._device)
        else:
            value = self.drawn(torch.empty(shape, device=self._device))
        return value if rows is None else value[rows]

    def drawn(self, tensor: Tensor) -> Tensor:
        """The tensor with small values drawn into it; whole numbers become 0."""
        if not tensor.is_floating_point():
            return tensor.zero_()
        return tensor.normal_(0.0, 0.02, generator=self._generator)
