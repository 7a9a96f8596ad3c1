"""Checkpoints of other trainers' making: pickles, of which tensors and plain values are read and nothing else."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_lab.checkpoints.tensor_files import StoredTensor
from ovi_lab.errors import UserError

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
_TOWER = re.compile(r"(?P<prefix>.*?)(?:video|audio)_model\.")
# torch.compile and activation checkpointing put these into the names of what they wrap.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
_OBJECT = re.compile(r"GLOBAL ([\w.]+)")


def load_plain(path: Path, allowed: Sequence[tuple[Callable[..., Any], str]] = ()) -> dict[str, Any]:
    """The dictionary in a file of torch.save; tensors are mapped from the file, not read.

    Args:
        path: the file.
        allowed: harmless stand-ins for objects that may be in it, each with the full name it stands for.

    Raises:
        UserError: cut short, or holding anything but tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = _OBJECT.search(str(error))
        if named is None:
            raise _broken(path, error) from error
        raise UserError(
            f"{path} holds {named.group(1)}, which is code and no tensor or plain value: refused; "
            "save the checkpoint without such objects"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise _broken(path, error) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected a dictionary of a checkpoint")
    return content


def _broken(path: Path, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    size = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
    return UserError(
        f"{path} is not a whole file of torch.save ({size}; {reason}): copy it again or use another"
    )


@dataclass(frozen=True)
class Pieces:
    """One tensor, kept in pieces: their values one after the other, a remainder of padding left out.

    Args:
        shape: of the whole.
        parts: flat tensors, or the whole one.
        dtype: that the whole has when it is put together.
    """

    shape: tuple[int, ...]
    parts: tuple[Tensor, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor, dtype: torch.dtype | None = None) -> Pieces:
        """A tensor that is in one piece; converted to `dtype` when it is read, if it is of floating point."""
        target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        return cls(tuple(tensor.shape), (tensor,), target)

    def whole(self) -> Tensor:
        """The tensor, put together."""
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
            yield name, self.pieces[name].whole()


def _word(dtype: torch.dtype) -> str:
    return _WORDS.get(dtype, str(dtype).removeprefix("torch.").upper())


def released_names_of(names: Iterable[str], source: Path) -> tuple[dict[str, str], list[str]]:
    """The names of a model in a trainer's state dict, by their released names.

    A trainer puts its own attribute's name before them (Lightning: `model.`).

    Args:
        names: of the state dict.
        source: the file, for messages.

    Returns:
        Stored name by released name, and the names of everything that is not the model's.

    Raises:
        UserError: no tower there, or several models.
    """
    plain = {name: _without_wrappers(name) for name in names}
    found = {match["prefix"] for name in plain.values() if (match := _TOWER.match(name))}
    if not found:
        raise UserError(
            f"{source} holds no video_model.* or audio_model.* weights: it is a checkpoint of another model"
        )
    if len(found) > 1 and "model." not in found:
        listed = ", ".join(repr(prefix) for prefix in sorted(found))
        raise UserError(
            f"{source} holds several models, under {listed}: save the one to export as `model.` or alone"
        )
    prefix = "model." if len(found) > 1 else found.pop()
    of_model = {
        name.removeprefix(prefix): stored
        for stored, name in plain.items()
        if (match := _TOWER.match(name)) and match["prefix"] == prefix
    }
    others = [name for name in plain if name not in set(of_model.values())]
    return of_model, others


def _without_wrappers(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def model_tensors(state: Mapping[str, Pieces], source: Path) -> tuple[PickledTensors, list[str]]:
    """The model of a trainer's state dict, and the names of what else is in it.

    Raises:
        UserError: no model of ours in it, or several.
    """
    names, others = released_names_of(state, source)
    return PickledTensors(source, {name: state[stored] for name, stored in names.items()}), others


def state_of(content: Mapping[str, Any], key: str, source: Path) -> dict[str, Tensor]:
    """A state dict within a checkpoint.

    Raises:
        UserError: it holds something else than tensors.
    """
    state = content[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{source}: {key} is no dictionary of tensors; use another checkpoint")
    return {str(name): value for name, value in state.items()}
