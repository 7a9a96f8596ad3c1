"""A model's tensors in files of torch.save, where other trainers may have cut one into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovi_lab.weights.tensor_files import Stored, StoredTensor, dtype_word


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


class PickledTensors(Stored):
    """A model's tensors in pickled files, under their released names, read one by one."""

    def __init__(self, path: Path, pieces: Mapping[str, Pieces]) -> None:
        self.path, self._pieces = path, pieces
        self.tensors = {n: StoredTensor(p.shape, dtype_word(p.dtype), path) for n, p in pieces.items()}

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        return ((name, self._pieces[name].joined()) for name in names)
