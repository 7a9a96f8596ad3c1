"""8-bit weights of the towers' linear layers, by torchao: half the memory of bfloat16, a quarter of float32.

Each row of a weight is stored as int8 times one float32 scale (symmetric, largest magnitude to 127); activations
keep their type, and a weight is widened to it only while its product is computed. Only the blocks' linear layers,
94 % of the released model's numbers, are converted: embeddings, modulation, norms and heads keep their type.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from ovi_eval.common.installation import install_hint
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT

MAX_RELATIVE_CHANGE = 0.02
"""Stated tolerance: how far, as a relative L2 distance, one forward pass of freshly initialised weights may be from
that before (measured: 0.001 to 0.016, see docs/memory.md). Weights drawn otherwise gave up to 0.022."""


def linear_names(model: TwinDiT) -> list[str]:
    """Names of the layers that are converted: every linear layer of every block."""
    return [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and ".blocks." in name
    ]


def quantise(model: TwinDiT, device: torch.device | str | None = None) -> TwinDiT:
    """The model's blocks with 8-bit weights, in place; it can sample and be moved, but not train.

    Args:
        model: loaded, in the type that it computes in.
        device: where each layer is converted, such as a GPU for speed; it then goes back to where it was. One layer
            at a time is there, never the wide weights of the whole model. None converts where the layer is.

    Raises:
        UserError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise UserError(
            f"weights_8bit=true needs the package torchao ({error}): {install_hint('quant')}"
        ) from error
    model.requires_grad_(False)
    # torchao would otherwise change inductor's settings for the whole process
    settings = Int8WeightOnlyConfig(set_inductor_config=False)
    for name in linear_names(model):
        layer = cast(nn.Linear, model.get_submodule(name))
        home = layer.weight.device
        quantize_(layer, settings, filter_fn=lambda *_: True, device=device)
        layer.to(home)
    return model


def stored_bytes(module: nn.Module) -> int:
    """Bytes that a module's parameters and buffers take, 8-bit ones with their scales; shared ones once."""
    seen: dict[int, int] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        for inner in _plain_tensors(tensor):
            seen[inner.data_ptr() or id(inner)] = inner.numel() * inner.element_size()
    return sum(seen.values())


def _plain_tensors(tensor: Any) -> list[torch.Tensor]:
    """The tensors that an 8-bit tensor consists of; any other tensor itself."""
    if getattr(tensor, "qdata", None) is None:
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [getattr(tensor, name) for name in names]
