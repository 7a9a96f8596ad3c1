"""Pickled checkpoints of other trainers, of which only tensors and plain values are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_eval.common.torch_files import load_torch_file
from ovi_lab.errors import UserError
from ovi_lab.weights.tensor_files import StoredTensor

_WORDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def load_plain(path: Path, allowed: Sequence[tuple[Callable[..., Any], str]] = ()) -> dict[str, Any]:
    """The dictionary in a file of torch.save; tensors are mapped from the file, not read.

    Args:
        path: the file.
        allowed: harmless stand-ins for objects that may be in it, each with the full name it stands for.

    Raises:
        UserError: cut short; or holding other than tensors and plain values, or tensors larger than the file.
    """
    content = load_torch_file(path, "copy it again or use another", allowed=allowed, legacy=False)
    if not isinstance(content, dict):
        raise UserError(
            f"{shown(path, None)} holds a {type(content).__name__}, expected a dictionary of a checkpoint"
        )
    return content


@dataclass(frozen=True)
class Pieces:
    """A tensor stored in pieces: the concatenation of their values without the padding at the end.

    Args:
        shape: shape of the whole tensor.
        parts: flat tensors, or the whole one.
        dtype: type of the joined tensor.
    """

    shape: tuple[int, ...]
    parts: tuple[Tensor, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor, dtype: torch.dtype | None = None) -> Pieces:
        """A tensor that is in one piece; converted to `dtype` when it is read, if it is of floating point."""
        target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        return cls(tuple(tensor.shape), (tensor,), target)

    def joined(self) -> Tensor:
        """The joined tensor."""
        size = torch.Size(self.shape).numel()
        if len(self.parts) == 1 and self.parts[0].numel() == size:
            return self.parts[0].reshape(self.shape).to(self.dtype)
        flat = torch.cat([part.flatten().to(self.dtype) for part in self.parts])
        return flat[:size].reshape(self.shape)


@dataclass(frozen=True)
class PickledTensors:
    """A model's tensors in pickled files, under their released names, read one by one."""

    path: Path
    pieces: Mapping[str, Pieces]

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """Shape and type by name."""
        return {n: StoredTensor(p.shape, _word(p.dtype), self.path) for n, p in self.pieces.items()}

    def stream(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor, one after the other; all of them unless `names` are given."""
        for name in self.pieces if names is None else names:
            yield name, self.pieces[name].joined()


def _word(dtype: torch.dtype) -> str:
    return _WORDS.get(dtype, str(dtype).removeprefix("torch.").upper())


def state_of(content: Mapping[str, Any], key: str, source: Path) -> dict[str, Tensor]:
    """A state dict within a checkpoint.

    Raises:
        UserError: it holds something else than tensors.
    """
    state = content[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{shown(source, None)}: {key} is no dictionary of tensors; use another checkpoint")
    return {str(name): value for name, value in state.items()}
