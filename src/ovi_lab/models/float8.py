"""Linear layers of the blocks in 8-bit floating point (fp8), by torchao: products in fp8, weights kept as they are.

Weights, activations and gradients are scaled by their largest value and rounded in each product (Micikevicius et al.,
arXiv 2209.05433: e4m3 forward, e5m2 for gradients). Names, checkpoints and optimisers do not change.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

import torch
from torch import nn

from ovi_eval.common.installation import install_hint
from ovi_lab.common.fields import checked
from ovi_lab.errors import UserError

LEAST_CAPABILITY = (8, 9)
"""CUDA compute capability from which on GPUs multiply in fp8 (L40, H100)."""


def convert_linear(model: nn.Module, choice: str) -> None:
    """Make the blocks' linear layers what `model.linear` says.

    Args:
        model: whose layers are named `….blocks.…`; those with a width that 16 does not divide stay.
        choice: `plain`; `fp8`; `fp8_emulated`: its rounding in the arithmetic of any device, to try what it does.

    UserError for another choice, without torchao, and for `fp8` without a GPU that has it.
    """
    checked(Literal["plain", "fp8", "fp8_emulated"], choice, "model.linear")
    if choice == "plain":
        return
    if choice == "fp8" and (
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < LEAST_CAPABILITY
    ):
        raise UserError(
            "model.linear is 'fp8', which needs an NVIDIA GPU of compute capability 8.9 or later (L40, H100); use "
            "plain, or fp8_emulated to try its rounding"
        )
    try:
        torchao: Any = importlib.import_module("torchao.float8")
    except ImportError as error:
        raise UserError(f"model.linear={choice} needs torchao: {install_hint('quant')}") from error

    def fits(layer: nn.Module, name: str) -> bool:
        widths = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (1,)
        return ".blocks." in name and all(width % 16 == 0 for width in widths)

    config = torchao.Float8LinearConfig(emulate=choice == "fp8_emulated")
    torchao.convert_to_float8_training(model, config=config, module_filter_fn=fits)
