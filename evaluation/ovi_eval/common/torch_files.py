"""Weight files, opened as plain containers, numbers and tensors: nothing in them is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_eval.errors import UserError

_SAFETENSORS_FAULTS = (SafetensorError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError)
_ZIP = b"PK\x03\x04"
_OBJECT = re.compile(r"(?:GLOBAL|Unsupported class)\s+([\w.]+)")
_MAX_PICKLE = 2**29
"""Bytes of the pickle beside the values: names, shapes and plain values."""


def read_weights(path: Path, advice: str = "fetch it again") -> Any:
    """What a weight file holds: a .safetensors file, or one of torch.save, of which `load_torch_file` says more.

    Raises UserError where the file is damaged or would have to run code to be read, with the advice.
    """
    if path.suffix != ".safetensors":
        return load_torch_file(path, advice)
    try:
        return load_file(path)
    except _SAFETENSORS_FAULTS as error:
        raise _broken(path, "safetensors file", error, advice) from error


def load_torch_file(
    path: Path,
    advice: str,
    *,
    allowed: Sequence[tuple[Callable[..., Any], str]] = (),
    legacy: bool = True,
) -> Any:
    """What the file holds; the tensors of an archive are mapped from it, not read.

    Args:
        path: the file.
        advice: what the user can do about a damaged one.
        allowed: harmless stand-ins for objects that may be in it, each with the full name it stands for.
        legacy: whether files of torch before 1.6, which are no archives, are read.

    Raises:
        UserError: damaged, cut off or no such file; holding code; or tensors larger than what the file has of them.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(len(_ZIP)) == _ZIP
        if zipped or not legacy:
            _check_archive(path)
        with torch.serialization.safe_globals(list(allowed)):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        _check_tensors(content)
        return content
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        named = _OBJECT.search(str(error))
        if named is None and not any(word in str(error) for word in ("instantiate", "Can only")):
            raise _broken(path, "file of torch.save", "it does not read as tensors", advice) from error
        raise UserError(
            f"{shown(path, None)} holds {named.group(1) if named else 'an object'}, which is code and no tensor or "
            "plain value: refused, because it can run; save its tensors alone, as safetensors"
        ) from error
    except Exception as error:  # torch's reader raises whatever a wrong argument in the file leads to
        raise _broken(path, "file of torch.save", error, advice) from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that unfolds to more than the file: torch.save compresses nothing and writes nothing twice."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.split("/")[-1] == "constants.pkl" for entry in entries):
        raise UserError(
            f"{shown(path, None)} is a TorchScript program, which is not opened because it can run code; "
            "save its state dict alone, as safetensors"
        )
    size = sum(entry.file_size for entry in entries)
    pickles = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its entries are compressed, as torch.save never does")
    if size > path.stat().st_size or pickles > _MAX_PICKLE:
        raise ValueError(f"its entries unfold to {size} bytes")


def _check_tensors(content: Any) -> None:
    """Refuse tensors that are larger than what the file holds of them, and all that are no plain arrays."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not plain or value.is_nested or type(value) not in (Tensor, torch.nn.Parameter):
                raise ValueError(f"it holds a {value.layout} tensor on {value.device}, no plain array")
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError(f"it holds a tensor of {list(value.shape)} with fewer values than that")
        elif isinstance(value, Mapping | list | tuple | set | frozenset) and id(value) not in seen:
            # by identity: a container may hold itself, or another many times
            seen.add(id(value))
            waiting.extend((*value.keys(), *value.values()) if isinstance(value, Mapping) else value)


def _broken(path: Path, what: str, error: Exception | str, advice: str) -> UserError:
    reason = shown((str(error).strip() or type(error).__name__).splitlines()[0], 160)
    size = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
    return UserError(f"{shown(path, None)} is not a whole {what} ({size}; {reason}): {advice}")
