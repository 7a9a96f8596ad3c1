"""Whether stored tensors fit a model: plain types, its names and shapes, finite values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError
from ovi_lab.weights.tensor_files import StoredTensor

_PLAIN_TYPES = ("F64", "F32", "F16", "BF16")
_SCALES = re.compile(
    r"(?:^|\.)(?:scale_weight|scale_input|weight_scale(?:_\d+)?|weight_scale_inv|input_scale|scaled_fp8|comfy_quant|"
    r"absmax|nested_absmax|quant_map|nested_quant_map|quant_state(?:\..+)?|SCB|weight_format|qweight|qzeros|scales|"
    r"g_idx|weight_packed|weight_shape|weight_zero_point)$"
)
"""Suffixes of tensors that are stored beside the weights by ComfyUI's scaled fp8, bitsandbytes, GPTQ, AWQ and
compressed-tensors.
"""


def check_plain(held: Mapping[str, StoredTensor], surplus: Iterable[str], source: str) -> None:
    """Refuse quantised weights.

    Raises:
        UserError: weights of another type than 16 bits or more of floating point, or scales beside them.
    """
    scales = [name for name in (*held, *surplus) if _SCALES.search(name)]
    odd = [name for name, tensor in held.items() if tensor.dtype not in _PLAIN_TYPES]
    if scales or odd:
        name = scales[0] if scales else f"{odd[0]} as {held[odd[0]].dtype}"
        raise UserError(
            f"{source} holds {shown(name, 120)} ({len(scales or odd)} such tensors): quantised weights need their own "
            "loader, take the file in bf16 or fp32"
        )


def check_fit(
    held: Mapping[str, StoredTensor],
    own: Mapping[str, Tensor],
    source: str,
    advice: str = "choose the configuration it was trained with",
) -> None:
    """Compare what a file holds with a model's state, by type, name and shape.

    Raises:
        UserError: quantised weights; or the first tensor that is missing, unknown or of another shape, and how many.
    """
    check_plain(held, (), source)
    missing = [name for name in own if name not in held]
    unknown = [name for name in held if name not in own]
    if missing or unknown:
        facts = []
        if missing:
            facts.append(f"lacks {missing[0]} ({len(missing)} of {len(own)} missing)")
        if unknown:
            facts.append(f"has {shown(unknown[0])} ({len(unknown)} unknown)")
        if "patch_embedding.weight" in held:
            advice = "it is one bare tower, which init_from.video takes"
        raise UserError(f"{source} does not fit this model: it {' and '.join(facts)}; {advice}")
    check_shapes(held, own, source)


def check_shapes(held: Mapping[str, StoredTensor], own: Mapping[str, Tensor], source: str) -> None:
    """Compare the shapes of what a file and a model's state both hold. Raises UserError as `check_fit`."""
    wrong = [n for n, tensor in held.items() if n in own and tensor.shape != tuple(own[n].shape)]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{source} does not fit this model: {name} is {list(held[name].shape)}, expected "
            f"{list(own[name].shape)} ({len(wrong)} of {len(own)} tensors differ); choose its own model size"
        )


def finite(name: str, tensor: Tensor, source: str) -> Tensor:
    """The tensor. Raises UserError where a value of it is NaN or infinite."""
    if tensor.numel() and tensor.is_floating_point():
        least, most = torch.aminmax(tensor)
        if not bool(torch.isfinite(least) & torch.isfinite(most)):
            raise UserError(
                f"{source} holds {shown(name, 120)} with values that are no finite numbers: it is broken, use another"
            )
    return tensor
