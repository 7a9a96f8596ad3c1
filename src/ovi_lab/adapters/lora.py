"""LoRA on a TwinDiT by PEFT: added, given its initial values, saved, loaded, merged.

Arrays: A [rank, in], B [out, rank] of a linear layer [out, in] (Hu et al., arXiv 2106.09685).
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ovi_eval.common.files import written_whole
from ovi_eval.common.installation import install_hint
from ovi_eval.common.plain_data import parse_json
from ovi_eval.common.shown import shown
from ovi_lab.adapters.merging import Stored, merged
from ovi_lab.adapters.settings import ADAPTER, LoraSettings, adapted_layer, base_name
from ovi_lab.common.foreign import reading
from ovi_lab.common.seeding import generator_for
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT

_METADATA = "ovi_lab.lora"


def add_lora(model: TwinDiT, settings: LoraSettings | Mapping[str, Any], seed: int = 0) -> tuple[int, int]:
    """Add an adapter and freeze all else; returns the number of trained values and of all values.

    A fresh adapter changes no prediction: B is zero. Names of adapted weights get `.base_layer` (see `base_name`).
    On the meta device the adapter is there too, without values (see `LoraValues`).

    Args:
        model: without an adapter.
        settings: or a mapping of them.
        seed: of A's initial values, which depend on it and on the layer's name alone.

    Raises:
        UserError: PEFT is missing, the model has an adapter, a target means no layer, or a setting is wrong.
    """
    settings = LoraSettings.of(settings)
    if adapted_layers(model):
        raise UserError("the model has an adapter already: merge it before another is added")
    peft = _peft()
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and ".blocks." in n]
    layers = settings.layers(linear)
    if settings.dtype is not None:
        model.to(settings.dtype)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.scaling * settings.rank,
        target_modules=layers,
        lora_dropout=settings.dropout,
        bias="none",
    )
    # On meta first: PEFT's own initial values would draw from the global generator.
    peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    added = adapted_layers(model)
    if list(added) != layers:
        raise RuntimeError(f"PEFT adapted {len(added)} layers, not the {len(layers)} that were named")
    values = LoraValues(None, seed)
    for layer, adapted in added.items():
        device = adapted.get_base_layer().weight.device
        for side in ("A", "B"):
            owner = adapted.get_submodule(f"lora_{side}.{ADAPTER}")
            name = f"{layer}.lora_{side}.{ADAPTER}.weight"
            value = torch.empty(owner.weight.shape, dtype=torch.float32, device=device)
            if device.type != "meta":
                value.copy_(values(name, owner, "weight"))
            owner.weight = nn.Parameter(value)
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """PEFT's layers by the released name of the layer they adapt, in the model's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    }


class LoraValues:
    """Where each parameter of a model with an adapter begins.

    Args:
        values: gives a parameter of the model by released name: (full name, owner, name there, rows) -> value.
        seed: of A's values: uniform within 1 / sqrt(in), as PyTorch's linear layers begin and PEFT's.
    """

    def __init__(self, values: Callable[..., Tensor] | None, seed: int) -> None:
        self._values, self._seed = values, seed

    def __call__(self, name: str, owner: nn.Module, leaf: str, rows: slice | None = None) -> Tensor:
        """The value, or some rows of it, on the CPU."""
        found = adapted_layer(name)
        if found is None:
            if self._values is None:
                raise ValueError(f"{name} is no parameter of an adapter")
            return self._values(base_name(name), owner, leaf, rows)
        layer, side = found
        value = torch.zeros(owner.get_parameter(leaf).shape)
        if side == "A":
            bound = 1 / math.sqrt(value.shape[1])
            value.uniform_(-bound, bound, generator=generator_for(self._seed, "adapter", layer))
        return value if rows is None else value[rows]


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors, `<released layer>.lora_A.weight` and `…lora_B.weight`."""
    return {
        f"{name}.lora_{side}.weight": layer.get_parameter(f"lora_{side}.{ADAPTER}.weight").detach()
        for name, layer in adapted_layers(model).items()
        for side in ("A", "B")
    }


def save_adapter(
    adapted: nn.Module | Stored, path: str | Path, settings: LoraSettings | Mapping[str, Any]
) -> None:
    """Write the adapter alone, with its settings, as one .safetensors file.

    Args:
        adapted: the model with the adapter, or the opened weights of its checkpoint.
        path: the file; one that is there is replaced.
        settings: the adapter's.

    Raises:
        UserError: there is no adapter; or the place cannot be written, and nothing is left of the file then.
    """
    settings = LoraSettings.of(settings)
    if isinstance(adapted, nn.Module):
        state = adapter_state(adapted)
    else:
        names = {name: found for name in adapted.tensors if (found := adapted_layer(name)) is not None}
        state = {
            f"{names[name][0]}.lora_{names[name][1]}.weight": tensor for name, tensor in adapted.stream(names)
        }
    if not state:
        raise UserError("there is no adapter that could be saved: the model's own weights were trained")
    # One entry: safetensors writes several in no fixed order, and the same adapter should be the same bytes.
    header = {_METADATA: json.dumps(dataclasses.asdict(settings))}
    with written_whole(Path(path)) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, temporary, header)


def load_adapter(model: TwinDiT, path: str | Path) -> LoraSettings:
    """Add the adapter of a file of `save_adapter` to a model without one; returns its settings.

    The file is read as tensors and text, whatever it says. The model's own weights keep their type.

    Raises:
        UserError: no such file or not whole, not an adapter, or one of another model.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"adapter {path} is not there: give a .safetensors file of an adapter")
    with reading(path, "safetensors file"), safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _METADATA not in metadata:
        raise UserError(f"{path} is no adapter of ovi-lab: its header has no settings")
    with reading(path, "safetensors file"):
        described = LoraSettings.of(parse_json(metadata[_METADATA], str(path)))
    # by its tensors' names: regular expressions of a file are untrusted and not run
    found = {match[0] for name in state if (match := adapted_layer(name)) is not None}
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    foreign = sorted(found - linear.keys())
    if foreign or not found:
        raise UserError(
            f"adapter {path} has {shown(foreign[0]) if foreign else 'no layer'}: it is of another model"
        )
    shapes: dict[str, list[int]] = {}
    for layer in found:
        shapes[f"{layer}.lora_A.weight"] = [described.rank, linear[layer].in_features]
        shapes[f"{layer}.lora_B.weight"] = [linear[layer].out_features, described.rank]
    for name in sorted(shapes.keys() | state.keys()):
        if name not in state or name not in shapes:
            raise UserError(
                f"adapter {path} {'lacks' if name in shapes else 'has'} {shown(name)}: it is of another model"
            )
        if list(state[name].shape) != shapes[name]:
            raise UserError(
                f"adapter {path} has {name} of {list(state[name].shape)}, this model takes {shapes[name]}"
            )
        if not state[name].is_floating_point() or not bool(state[name].isfinite().all()):
            raise UserError(f"adapter {path} has {name} with values that are no finite numbers: it is broken")
    settings = dataclasses.replace(described, base_dtype=None)
    exactly = tuple(f"^{re.escape(layer)}$" for layer in sorted(found))
    add_lora(model, dataclasses.replace(settings, targets=exactly))
    with torch.no_grad():
        for name, parameter in adapter_state(model).items():
            parameter.copy_(state[name])
    return settings


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Add the adapter to the weights it adapts, and take it away: the model has its released names again.

    UserError where there is none, or a result is not finite; the model is then as it was.
    """
    layers = adapted_layers(model)
    if not layers:
        raise UserError("the model has no adapter that could be merged")

    def value(layer: Any) -> Tensor:
        A, B = (layer.get_parameter(f"lora_{side}.{ADAPTER}.weight") for side in ("A", "B"))
        return merged(layer.get_base_layer().weight, A, B, layer.scaling[ADAPTER])

    for layer in layers.values():
        value(layer)  # all of them before the first is changed; kept, they would double the model's memory
    for name, layer in layers.items():
        base = layer.get_base_layer()
        base.weight.copy_(value(layer))
        parent, _, leaf = name.rpartition(".")
        model.get_submodule(parent).register_module(leaf, base)


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise UserError(f"adapters need the package peft; {install_hint('lora')}") from error
