"""Initial values: every parameter from a generator of its own, seeded by the model's seed and its name.

Two models that share a parameter's name and shape therefore share its initial value, whatever else they
hold: arms of an ablation start from the same values, and a sharded or meta-built model can be filled one by one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ovi_lab.common.seeding import generator_for
from ovi_lab.models.norms import LayerNorm, RMSNorm

FUSION_DIVISOR = 10.0
"""Fusion projections start this much smaller, so that a pretrained tower is little disturbed at first."""


def initial_value(
    name: str,
    owner: nn.Module,
    shape: torch.Size,
    generator: torch.Generator,
    *,
    rope_factor: float = 1.0,
    fusion_init: str = "both",
) -> Tensor:
    """The initial value, float32 on the CPU, of the parameter `name` of the module `owner`.

    Linear layers: Xavier uniform, bias 0; text and time embedding: normal of 0.02; video patches: Xavier
    over the flattened patch; audio convolutions: uniform within 1 / sqrt(fan in); head weight 0; modulation:
    normal of 1 / sqrt(width); norms 1 and 0. (As the reference, except where `fusion_init` says otherwise.)
    """
    tower, leaf = name.split(".")[0], name.rsplit(".", 1)[-1]
    value = torch.empty(shape, dtype=torch.float32)
    if leaf == "modulation":
        return value.normal_(0.0, shape[-1] ** -0.5, generator=generator)
    if leaf == "rope_scale":
        return value.fill_(rope_factor)
    if isinstance(owner, RMSNorm | LayerNorm):
        return value.fill_(1.0 if leaf == "weight" else 0.0)
    if isinstance(owner, nn.Conv1d):
        fan_in = owner.in_channels * owner.kernel_size[0]
        return value.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
    if leaf == "bias" or name.endswith("head.head.weight"):
        return value.zero_()
    if ".text_embedding." in name or ".time_embedding." in name:
        return value.normal_(0.0, 0.02, generator=generator)
    fan_out, fan_in = shape[0], math.prod(shape[1:])
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    value.uniform_(-bound, bound, generator=generator)
    if name.split(".")[-2] in ("k_fusion", "v_fusion") and (fusion_init == "both" or tower == "video_model"):
        value /= FUSION_DIVISOR
    return value


@torch.no_grad()
def initialise_parameters(
    model: nn.Module, seed: int, *, rope_factor: float = 1.0, fusion_init: str = "both"
) -> None:
    """Fills every parameter of `model` in place, each from its own generator; those on meta are left."""
    for prefix, owner in model.named_modules():
        for leaf, parameter in owner.named_parameters(recurse=False):
            if parameter.is_meta:
                continue
            name = f"{prefix}.{leaf}" if prefix else leaf
            generator = generator_for(seed, "initial value", name)
            value = initial_value(
                name, owner, parameter.shape, generator, rope_factor=rope_factor, fusion_init=fusion_init
            )
            parameter.copy_(value)
