"""Bytes of tensors alive, counted at every operation on any device; training's kernels and casts on the meta device.

On meta tensors this gives the peak of a computation without its memory: the same code runs on shapes alone. What a
kernel takes for itself, and what an allocator keeps beside it, is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ovi_lab.planning.known_results import on_meta


class LiveStorages:
    """Bytes of storages alive: each counts from the first `count` of it until it is freed."""

    def __init__(self) -> None:
        self.now = 0
        """Bytes alive."""
        self.peak = 0
        """The most of them since `restart`."""
        self.peak_origins: dict[str, int] = {}
        """Bytes alive at that moment, by what made them."""
        self._held: dict[int, tuple[int, str]] = {}
        self._origins: Counter[str] = Counter()

    def restart(self) -> None:
        """Forget the peak: the next one begins with what is alive now."""
        self.peak, self.peak_origins = self.now, dict(self._origins)

    def count(self, tensor: Tensor, origin: str = "") -> None:
        """Count the storage of a tensor, or how its size has changed; `origin` is what made it, if it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._held:
            self._held[key] = (0, origin)
            weakref.finalize(storage, self._freed, key)
        self.resized(storage)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Count the size that a storage has now, if it is one of those that count."""
        key = storage._cdata
        if key in self._held:
            size, (before, origin) = storage.nbytes(), self._held[key]
            self._held[key] = (size, origin)
            self._add(size - before, origin)
            self.reach(0)

    def reach(self, extra: int, origin: str = "") -> None:
        """Count a moment in which `extra` bytes more are alive."""
        if self.now + extra > self.peak:
            self.peak, self.peak_origins = self.now + extra, dict(self._origins)
            if extra:
                self.peak_origins[origin] = self.peak_origins.get(origin, 0) + extra

    def _add(self, size: int, origin: str) -> None:
        self.now += size
        self._origins[origin] += size
        if not self._origins[origin]:
            del self._origins[origin]

    def _freed(self, key: int) -> None:
        # before `now` is read: another thread, or another storage's end, may change it
        size, origin = self._held.pop(key)
        self._add(-size, origin)


class LiveMemory(TorchDispatchMode):
    """Inside, every new storage on the device counts from the operation that made it until it is freed.

    Args:
        device: whose tensors count.
        known: modules whose parameters and buffers do not.
    """

    def __init__(self, device: torch.device | str, *known: nn.Module) -> None:
        super().__init__()
        self.live = LiveStorages()
        self._type = torch.device(device).type
        self._known = {
            tensor.untyped_storage()._cdata: tensor
            for module in known
            for tensor in (*module.parameters(), *module.buffers())
        }

    @property
    def now(self) -> int:
        """Bytes alive."""
        return self.live.now

    @property
    def peak(self) -> int:
        return self.live.peak

    @peak.setter
    def peak(self, value: int) -> None:
        self.live.peak = value

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = on_meta(func, args, kwargs or {}) if self._type == "meta" else func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.device.type == self._type:
                self._count(value)
        return out

    def reach(self, extra: int) -> None:
        """Count a moment in which `extra` bytes more are alive."""
        self.live.reach(extra)

    def _count(self, tensor: Tensor) -> None:
        if tensor.untyped_storage()._cdata not in self._known:
            self.live.count(tensor)


class _FusedRMSNorm(torch.autograd.Function):
    """What CUDA's kernel allocates: the result, and one number a row that the backward pass reads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, torch.empty(x.shape[:-1], device=x.device))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, _ = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return tuple(torch.empty_like(t) if n else None for t, n in zip((x, weight), needed, strict=True))


class _LinearOfZero3(torch.autograd.Function):
    """DeepSpeed's linear layer (`deepspeed.runtime.zero.linear`): autograd keeps its input also of a frozen weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if bias is None:
            return x.matmul(weight.t())
        # DeepSpeed adds the bias in place; here that would touch what selective checkpointing keeps
        return torch.addmm(bias, x.flatten(0, -2), weight.t()).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        rows, needed = gradient.flatten(0, -2), ctx.needs_input_grad
        return (
            gradient.matmul(weight) if needed[0] else None,
            rows.t().matmul(x.flatten(0, -2)) if needed[1] else None,
            rows.sum(0) if needed[2] else None,
        )


class Kernels:
    """What replaces PyTorch's functions inside `as_trained`.

    On the meta device these would compute attention as products of all queries with all keys, and ignore autocast.

    Args:
        device: "cuda" or "cpu": whose fused attention.
        autocast: type to which `torch.autocast` would cast the products' float32 arguments, or None.
    """

    def __init__(self, device: str, autocast: torch.dtype | None) -> None:
        self.cpu, self.autocast = device == "cpu", autocast
        self._cast: dict[int, tuple[Tensor, Tensor]] | None = {}

    def forget(self) -> None:
        """The forward pass is over: autocast, which casts trained weights once a pass, drops them."""
        self._cast = None

    def attention(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """`scaled_dot_product_attention` by the fused kernel, with its backward pass."""
        q, k, v = (self.lower(x) for x in (query, key, value))
        aten = torch.ops.aten
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.empty(attn_mask.shape, dtype=q.dtype, device=q.device)
        if self.cpu:
            return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=attn_mask)[0]
        if attn_mask is None:
            return aten._scaled_dot_product_flash_attention(q, k, v)[0]
        bias = attn_mask.expand(*q.shape[:-1], k.shape[-2])
        return aten._scaled_dot_product_efficient_attention(q, k, v, bias, torch.is_grad_enabled())[0]

    def rms_norm(self, x: Tensor, shape: Any, weight: Tensor, eps: float) -> Tensor:
        """`rms_norm` by CUDA's kernel; on other devices PyTorch takes it apart."""
        return _FusedRMSNorm.apply(self._raised(x), self._raised(weight))

    def layer_norm(
        self,
        x: Tensor,
        shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """`layer_norm`, which CUDA's autocast computes in float32."""
        return torch.layer_norm(self._raised(x), shape, self._raised(weight), self._raised(bias), eps)

    def _raised(self, value: Any) -> Any:
        return value if self.autocast is None or value is None else value.float()

    def lower(self, value: Any) -> Any:
        """An argument of a product as autocast passes it on (https://pytorch.org/docs/stable/amp.html)."""
        if self.autocast is None or not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if self._cast is None or not (value.requires_grad and value.is_leaf):
            return value.to(self.autocast)
        if id(value) not in self._cast:
            self._cast[id(value)] = (value, value.to(self.autocast))
        return self._cast[id(value)][1]

    def lowered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` under autocast."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*map(self.lower, args), **{k: self.lower(v) for k, v in kwargs.items()})

        return call


@contextmanager
def as_trained(
    device: str, autocast: torch.dtype | None = None, by_deepspeed: bool = False
) -> Iterator[Kernels]:
    """Inside, modules on the meta device attend and multiply as they would in training; `by_deepspeed` under ZeRO 3.

    The functions are replaced where modules find them. A mode, the usual way, ends with the forward pass, and
    activation checkpointing runs blocks again after that.
    """
    kernels = Kernels(device, autocast)
    replaced: dict[str, Callable[..., Any]] = {
        "linear": kernels.lowered(_LinearOfZero3.apply if by_deepspeed else F.linear),
        "conv1d": kernels.lowered(F.conv1d),
        "scaled_dot_product_attention": kernels.attention,
    }
    if device == "cuda":
        replaced |= {"rms_norm": kernels.rms_norm, "layer_norm": kernels.layer_norm}
    before = {name: getattr(F, name) for name in replaced}
    try:
        for name, function in replaced.items():
            setattr(F, name, function)
        yield kernels
    finally:
        for name, function in before.items():
            setattr(F, name, function)


class TrainingMemory(LiveMemory):
    """`LiveMemory`, and what the fused attention of CUDA takes for itself in the backward pass.

    That is the gradient of the queries in float32, to which blocks of keys add (Dao, arXiv 2307.08691).
    """

    def __init__(self, device: torch.device | str, *known: nn.Module) -> None:
        super().__init__(device, *known)
        self._backward = torch.ops.aten._scaled_dot_product_flash_attention_backward.default

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func is self._backward:
            self.reach(4 * args[1].numel())
        return out
