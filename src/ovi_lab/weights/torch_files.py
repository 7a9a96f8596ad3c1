"""Published weight files: read as tensors only, and loaded under a rule for their names.

Files are mapped into memory rather than read, and a tensor is copied only where it changes its type or
device, so that a model of any size is loaded without a second copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovi_eval.common.torch_files import read_weights
from ovi_lab.errors import UserError

_PLAIN_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


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
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path} holds {name!r} ({type(value).__name__}) among the tensors of the {what}: "
                "it is another file"
            )
    return {str(name): value for name, value in content.items()}


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
        UserError: a tensor is missing, not known, or of another shape.
    """
    own = module.state_dict()
    names = {rename(name): name for name in tensors}
    unknown = [name for name in tensors if rename(name) not in own or names[rename(name)] != name]
    missing = [name for name in own if name not in names]
    if unknown or missing:
        facts = []
        if missing:
            facts.append(f"it lacks {missing[0]} ({len(missing)} missing)")
        if unknown:
            facts.append(f"it has {unknown[0]} ({len(unknown)} too many)")
        raise UserError(f"{source} holds another model: {', '.join(facts)}; expected {len(own)} tensors")
    wrong = [new for new, name in names.items() if own[new].shape != tensors[name].shape]
    if wrong:
        raise UserError(
            f"{source} holds a model of another size: {names[wrong[0]]} is {list(tensors[names[wrong[0]]].shape)}, "
            f"expected {list(own[wrong[0]].shape)} ({len(wrong)} tensors differ)"
        )
    odd = [
        n for new, n in names.items() if own[new].is_floating_point() and tensors[n].dtype not in _PLAIN_TYPES
    ]
    if odd:
        raise UserError(
            f"{source} holds {odd[0]} as {tensors[odd[0]].dtype} ({len(odd)} such tensors): quantised weights need "
            "their own loader, take the file in bf16 or fp32"
        )
    converted = {}
    for new, name in names.items():
        tensor = tensors[name].detach()
        converted[new] = tensor.to(device, dtype if tensor.is_floating_point() else None)
    module.load_state_dict(converted, strict=True, assign=True)
    module.requires_grad_(False).eval()
