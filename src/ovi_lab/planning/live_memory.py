"""How many bytes of tensors are alive, counted at every operation, on any device, the meta device included.

On meta tensors this tells the peak of a computation without its memory: the same code runs on shapes alone. What a
kernel takes for itself, and what an allocator keeps beside it, is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Inside, every new storage on the device counts from the operation that made it until it is freed.

    Args:
        device: whose tensors count.
        known: modules whose parameters and buffers do not.
    """

    def __init__(self, device: torch.device | str, *known: nn.Module) -> None:
        super().__init__()
        self.now = 0
        """Bytes alive."""
        self.peak = 0
        self._type = torch.device(device).type
        self._seen: dict[int, Any] = {}
        for module in known:
            for tensor in (*module.parameters(), *module.buffers()):
                self._seen.setdefault(tensor.untyped_storage()._cdata, tensor)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.device.type == self._type:
                self._count(value)
        return out

    def reach(self, extra: int) -> None:
        """Count a moment in which `extra` bytes more are alive."""
        self.peak = max(self.peak, self.now + extra)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        self._seen[key] = weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.now -= size
        del self._seen[key]
