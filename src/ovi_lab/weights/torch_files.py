"""Files of torch.save and published weights: read as tensors and plain values only, and loaded into a module.

Files are mapped into memory rather than read, and a tensor is copied only where it changes its type or
device, so that a model of any size is loaded without a second copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovi_eval.common.shown import shown
from ovi_eval.common.torch_files import load_torch_file, read_weights
from ovi_lab.errors import UserError
from ovi_lab.weights.fit import check_fit
from ovi_lab.weights.tensor_files import StoredTensor, dtype_word


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


def state_of(content: Mapping[str, Any], key: str, source: Path) -> dict[str, Tensor]:
    """A state dict within a checkpoint. Raises UserError where it holds something else than tensors."""
    state = content[key]
    whole = isinstance(state, Mapping)
    odd = [(n, v) for n, v in state.items() if not isinstance(v, Tensor)] if whole else [(key, state)]
    if odd:
        held = f"{shown(repr(odd[0][0]), 80)} ({type(odd[0][1]).__name__})"
        raise UserError(
            f"{shown(source, None)}: {key} is no dictionary of tensors, it holds {held}; use another file"
        )
    return {str(name): value for name, value in state.items()}


def read_tensors(path: str | Path, what: str, under: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a file that torch.save wrote, by name, on the CPU.

    Args:
        path: ends in .safetensors, or is read as torch's own format (with tensors and plain values only).
        what: the file's content in words, for messages.
        under: key of the dictionary that holds the tensors, where they are not on top.

    Raises:
        UserError: there is no such file; it is cut short, damaged, holds code, or no tensors where expected.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no {what} at {path}: fetch the published file, or correct the path")
    content: Any = read_weights(path, f"fetch the {what} again")
    if under is not None:
        if not isinstance(content, Mapping) or under not in content:
            raise UserError(f"{path} holds no {under!r}, where the {what} should be: it is another file")
        content = content[under]
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"{path} holds {type(content).__name__}, expected the {what} as tensors by name: it is another file"
        )
    return state_of({what: content}, what, path)


def load_named(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    rename: Callable[[str], str] = str,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Put tensors into a module that was built on the meta device; every name and every shape must match.

    Args:
        module: its parameters and persistent buffers are replaced, and it is frozen and set to evaluation.
        tensors: by the names of their file.
        source: of the tensors, for messages.
        rename: the module's name for a name of the file.
        dtype: of the floating-point tensors; None keeps the file's.
        device: to put them on.

    Raises:
        UserError: a tensor is missing, not known, of another shape, or quantised.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = rename(name)
        # a second tensor of one name keeps its own, which the module does not know
        named[name if new in named else new] = tensor.detach()
    held = {n: StoredTensor(tuple(t.shape), dtype_word(t.dtype), Path(source)) for n, t in named.items()}
    check_fit(held, module.state_dict(), source, "take the published file, or the configuration of this one")
    converted = {n: t.to(device, dtype if t.is_floating_point() else None) for n, t in named.items()}
    module.load_state_dict(converted, strict=True, assign=True)
    module.requires_grad_(False).eval()
