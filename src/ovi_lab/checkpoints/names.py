"""Names of a model's tensors in files of any trainer, and a check that they are plain weights.

A trainer puts the names of its own attributes before the model's (`model.`, `module.`, `_orig_mod.`,
`model.diffusion_model.`, …); quantised weights have other types, or scales beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError
from ovi_lab.weights.tensor_files import Stored, StoredTensor

_TOWER = re.compile(r"(?P<prefix>(?:[^.]+\.)*?)(?:video|audio)_model\.")
_BARE = "patch_embedding.weight"
"""Names of a tower published by itself (Wan2.2), without a tower's prefix."""
_BARE_TOWER = re.compile(
    r"(?P<prefix>(?:(?:model|module|diffusion_model|state_dict|transformer|net)\.)*)patch_embedding\.weight$"
)
# torch.compile and activation checkpointing put these into the names of what they wrap.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
_PLAIN_TYPES = ("F64", "F32", "F16", "BF16")
_SCALES = re.compile(
    r"(?:^|\.)(?:scale_weight|scale_input|weight_scale(?:_\d+)?|weight_scale_inv|input_scale|scaled_fp8|comfy_quant|"
    r"absmax|nested_absmax|quant_map|nested_quant_map|quant_state(?:\..+)?|SCB|weight_format|qweight|qzeros|scales|"
    r"g_idx|weight_packed|weight_shape|weight_zero_point)$"
)
"""Suffixes of tensors that are stored beside the weights by ComfyUI's scaled fp8, bitsandbytes, GPTQ, AWQ and
compressed-tensors.
"""


@dataclass(frozen=True)
class Renamed:
    """Some of the tensors on disk, under other names."""

    stored: Stored
    names: Mapping[str, str]
    """Stored name by new name."""

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.stored.path

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """Shape and type by new name."""
        held = self.stored.tensors
        return {new: held[old] for new, old in self.names.items()}

    def stream(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """New name and tensor, as the file streams them; all of them unless `names` are given."""
        wanted = {self.names[new]: new for new in (self.names if names is None else names)}
        for old, tensor in self.stored.stream(wanted):
            yield wanted[old], tensor


def model_of(stored: Stored) -> tuple[Stored, list[str]]:
    """The one model among the tensors of a file, under released names, and the names of all that is not the model's.

    A tower published by itself keeps its own names, without what a trainer put before them.

    Raises:
        UserError: there is none, or several; or its weights are quantised.
    """
    source = shown(stored.path, None)
    plain = {name: _without_wrappers(name) for name in stored.tensors}
    found = {match["prefix"] for name in plain.values() if (match := _TOWER.match(name))}
    bare = {match["prefix"] for name in plain.values() if (match := _BARE_TOWER.match(name))}
    if not found and not bare:
        raise UserError(
            f"{source} holds no video_model.* or audio_model.* weights: it is a checkpoint of another model"
        )
    prefixes = found or bare
    if len(prefixes) > 1 and "model." not in prefixes:
        listed = ", ".join(repr(shown(prefix, 60)) for prefix in sorted(prefixes)[:4])
        raise UserError(
            f"{source} holds several models, under {listed}: save the one to be used as `model.` or alone"
        )
    prefix = "model." if len(prefixes) > 1 else next(iter(prefixes))
    names: dict[str, str] = {}
    for old, name in plain.items():
        if found and not ((match := _TOWER.match(name)) and match["prefix"] == prefix):
            continue
        if not found and not name.startswith(prefix):
            continue
        new = name.removeprefix(prefix)
        if new in names:
            raise UserError(f"{source} holds {shown(new, 80)} twice, as {shown(names[new])} and {shown(old)}")
        names[new] = old
    surplus = [old for old in plain if old not in set(names.values())]
    check_plain({n: stored.tensors[old] for n, old in names.items()}, surplus, source)
    beside = [o for o in surplus if found and plain[o].startswith(f"{prefix}blocks.")]
    if beside:
        raise UserError(
            f"{source} holds {shown(beside[0], 80)} beside the towers ({len(beside)} such tensors), which is not the "
            "released layout: take the model in that"
        )
    return (
        stored if not surplus and all(n == o for n, o in names.items()) else Renamed(stored, names)
    ), surplus


def _without_wrappers(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


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


def check_fit(held: Mapping[str, StoredTensor], own: Mapping[str, Tensor], source: str) -> None:
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
        advice = "choose the configuration it was trained with"
        if _BARE in held:
            advice = "it is one bare tower, which init_from.video takes"
        raise UserError(f"{source} does not fit this model: it {' and '.join(facts)}; {advice}")
    wrong = [name for name, tensor in held.items() if tensor.shape != tuple(own[name].shape)]
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
