"""Operations on the meta device, each computed once for arguments of the same shapes.

PyTorch computes most of their shapes in Python, as slowly as a small GPU takes for the operation itself; a model does
the same ones in each block, step and pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_NEW = tuple[torch.Size, tuple[int, ...], torch.dtype]
"""Shape, strides and type of a tensor in a storage of its own."""

_known: dict[Hashable, _NEW | tuple[_NEW, ...] | None] = {}
"""None: computed each time."""


def on_meta(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """`func(*args, **kwargs)` for an operator of PyTorch, as `__torch_dispatch__` gets it.

    What it returned before is made again where all its tensors are on the meta device, it changes none of them, and it
    returns new tensors; anything else is called.
    """
    key = _key_of(func, args, kwargs)
    if key is None:
        return func(*args, **kwargs)
    if key not in _known:
        out = func(*args, **kwargs)
        _known[key] = _form(
            out, {t.untyped_storage()._cdata for t in _tensors((args, tuple(kwargs.values())))}
        )
        return out
    form = _known[key]
    if form is None:
        return func(*args, **kwargs)
    if isinstance(form[0], torch.Size):
        return _made(form)
    return tuple(map(_made, form))


def _made(new: _NEW) -> Tensor:
    size, stride, dtype = new
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")


def _key_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Hashable | None:
    """What the result depends on; None where that is more than shapes, strides, types and plain values."""
    if func._schema.is_mutable:
        return None
    try:
        return func, tuple(map(_key, args)), tuple((name, _key(value)) for name, value in kwargs.items())
    except _OtherError:
        return None


class _OtherError(Exception):
    """An argument whose shape and type do not say all."""


def _key(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, nn.Parameter) or not value.is_meta or value.layout != torch.strided:
            raise _OtherError
        if value.is_complex() or value.is_quantized:  # conjugated without being computed, or with scales
            raise _OtherError
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_key, value))
    if isinstance(value, _PLAIN):
        return type(value), value  # 1, 1.0 and True are equal and give results of different types
    raise _OtherError


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _form(out: Any, taken: set[int]) -> _NEW | tuple[_NEW, ...] | None:
    """How to make the like of `out`; None where it is not of new tensors alone, in storages of the usual size."""
    several = out if isinstance(out, tuple) else (out,)
    forms = []
    for tensor in several:
        if type(tensor) is not Tensor or not tensor.is_meta or tensor.is_complex() or tensor.storage_offset():
            return None
        form = tensor.shape, tensor.stride(), tensor.dtype
        storage = tensor.untyped_storage()
        if storage._cdata in taken or storage.nbytes() != _made(form).untyped_storage().nbytes():
            return None
        taken.add(storage._cdata)
        forms.append(form)
    return tuple(forms) if isinstance(out, tuple) else forms[0]
