"""Pickled checkpoints of other trainers, of which only tensors and plain values are read."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.common.foreign import reading
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
_OBJECT = re.compile(r"GLOBAL ([\w.]+)")
_MAX_PICKLE = 2**29
"""Largest size of the pickle besides the values: names, shapes and plain values."""


def load_plain(path: Path, allowed: Sequence[tuple[Callable[..., Any], str]] = ()) -> dict[str, Any]:
    """The dictionary in a file of torch.save; tensors are mapped from the file, not read.

    Args:
        path: the file.
        allowed: harmless stand-ins for objects that may be in it, each with the full name it stands for.

    Raises:
        UserError: cut short; or holding other than tensors and plain values, or tensors larger than the file.
    """
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = _OBJECT.search(str(error))
        if named is None:
            raise _broken(path, error) from error
        raise UserError(
            f"{shown(path, None)} holds {named.group(1)}, which is code and no tensor or plain value: refused; "
            "save the checkpoint without such objects"
        ) from error
    except Exception as error:  # torch's reader raises whatever a wrong argument in the file leads to
        raise _broken(path, error) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{shown(path, None)} holds a {type(content).__name__}, expected a dictionary of a checkpoint"
        )
    _check_tensors(content, path)
    return content


def _check_archive(path: Path) -> None:
    """Refuse an archive that unfolds to more than the file: torch.save compresses nothing and writes nothing twice."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise _broken(path, error) from error
    size = sum(entry.file_size for entry in entries)
    pickles = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _broken(path, ValueError("its entries are compressed, as torch.save never does"))
    if size > path.stat().st_size or pickles > _MAX_PICKLE:
        raise _broken(path, ValueError(f"its entries unfold to {size} bytes"))


def _check_tensors(content: Any, path: Path) -> None:
    """Refuse tensors that are larger than what the file holds of them, and all that are no plain arrays."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            with reading(path, "file of torch.save"):
                plain = (
                    value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
                )
                if not plain or value.is_nested or type(value) not in (Tensor, torch.nn.Parameter):
                    raise ValueError(f"it holds a {value.layout} tensor on {value.device}, no plain array")
                if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                    raise ValueError(f"it holds a tensor of {list(value.shape)} with fewer values than that")
            continue
        if not isinstance(value, Mapping | list | tuple | set | frozenset) or id(value) in seen:
            continue
        # by identity: a container may hold itself, or another many times
        seen.add(id(value))
        waiting.extend((*value.keys(), *value.values()) if isinstance(value, Mapping) else value)


def _broken(path: Path, error: Exception) -> UserError:
    reason = shown((str(error).strip() or type(error).__name__).splitlines()[0], 160)
    size = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
    return UserError(
        f"{shown(path, None)} is not a whole file of torch.save ({size}; {reason}): copy it again or use another"
    )


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
