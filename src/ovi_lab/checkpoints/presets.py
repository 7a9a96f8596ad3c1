"""Presets of the released Ovi models, and loading of weights in their layout into our model.

Facts of the presets: the released inference code and arXiv 2510.01284; `conf/released` holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import torch
from omegaconf import OmegaConf
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ovi_eval.common.plain_data import read_yaml
from ovi_lab.checkpoints.configuration import check_model, model_settings
from ovi_lab.checkpoints.names import model_of
from ovi_lab.codecs.mmaudio import MMAudioConfig
from ovi_lab.codecs.wan22 import Wan22Config
from ovi_lab.common.fields import CLOSED, AnyText, checked, number, whole
from ovi_lab.common.paths import config_dir
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.text.umt5 import UMT5Config
from ovi_lab.weights.fit import finite
from ovi_lab.weights.tensor_files import INDEX_SUFFIX, Stored, TensorFiles

PRESET_FILE = "preset.yaml"
_ADVICE = "copy one of conf/released, or write it again"
"""The preset in a folder of weights, for a model that is none of the released ones."""


def _below(name: str) -> str:
    file = PurePosixPath(name)
    if file.is_absolute() or ".." in file.parts or "\\" in name or not file.name:
        raise ValueError("not below the folder of weights")
    return name


def _one_place(form: str) -> str:
    if form.count("{}") != 1 or set(form.replace("{}", "")) & set("{}"):
        raise ValueError("not one {}")
    return form


_Side = Annotated[int, whole(1, 2**16)]
_Sizes = Annotated[dict[str, Any], BeforeValidator(lambda sizes: {} if sizes is None else sizes)]


@dataclass(frozen=True, config=CLOSED)
class ReleasedModel:
    """One released model: its file and the clips it was trained on."""

    name: AnyText
    file: Annotated[AnyText, AfterValidator(_below), Field(description="a path below the folder of weights")]
    """The file of weights, relative to the folder of all weights."""
    model: dict[str, Any]
    """Arguments of TwinDiT."""
    video_latent_frames: Annotated[int, whole(1, 2**16)]
    audio_latents: Annotated[int, whole(1, 2**20)]
    area: tuple[_Side, _Side]
    """Height and width in pixels whose product is a clip's approximate picture area."""
    fps: Annotated[float, number(gt=0, le=1000)]
    sample_rate: Annotated[int, whole(1, 2**20)]
    audio_tag: Annotated[AnyText, AfterValidator(_one_place), Field(description="a text with one {}")]
    """The form of the sound's description in a prompt; `{}` stands for it."""
    text_encoder: _Sizes = field(default_factory=dict)
    """Sizes of umT5 (`UMT5Config`) that differ from the published ones."""
    video_codec: _Sizes = field(default_factory=dict)
    """Likewise of the Wan2.2 VAE (`Wan22Config`)."""
    audio_codec: _Sizes = field(default_factory=dict)
    """Likewise of MMAudio's VAE and vocoder (`MMAudioConfig`)."""

    def weights_file(self, folder: str | Path) -> Path | None:
        """The file below `folder` (where it may lie without its subfolder), or the index of its shards."""
        for place in (Path(folder, self.file), Path(folder, Path(self.file).name)):
            for found in (place, place.with_name(f"{place.stem}{INDEX_SUFFIX}")):
                if found.is_file():
                    return found
        return None


def released_names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in (config_dir() / "released").glob("*.yaml"))


def is_released(checkpoint: str | Path) -> bool:
    """Whether `checkpoint=` names a released model, or a folder in its layout with a preset of its own."""
    return str(checkpoint) in released_names() or _preset_file(checkpoint).is_file()


def released_model(name: str | Path) -> ReleasedModel:
    """The preset of a name such as `ovi_960x960_10s`, or the preset of a folder of weights.

    Raises:
        UserError: unknown name, or a preset.yaml that is none.
    """
    if str(name) in released_names():
        return _own_preset(str(name))
    if _preset_file(name).is_file():
        try:
            facts = read_yaml(_preset_file(name))
        except UserError as error:
            raise UserError(f"{_preset_file(name)} is no preset ({error}): {_ADVICE}") from error
        return _preset(facts, str(_preset_file(name)))
    raise UserError(f"{str(name)!r} is no released model; there are {', '.join(released_names())}")


def _preset_file(place: str | Path) -> Path:
    place = Path(place)
    return place if place.name == PRESET_FILE else place / PRESET_FILE


def _own_preset(name: str) -> ReleasedModel:
    """One of conf/released, whose parts are names in conf/."""
    folder = config_dir()
    facts: Any = OmegaConf.load(folder / "released" / f"{name}.yaml")
    # the same references as in a composed run: the model's file points at fusion, rope and seed
    parts = {
        part: OmegaConf.load(folder / part / f"{facts[part]}.yaml") for part in ("model", "fusion", "rope")
    }
    model: Any = OmegaConf.to_container(OmegaConf.create({**parts, "seed": 0}).model, resolve=True)
    plain: Any = OmegaConf.to_container(facts)
    facts = {key: value for key, value in plain.items() if key not in ("fusion", "rope")}
    return _preset({"name": name, **facts, "model": model}, f"conf/released/{name}.yaml")


def _preset(facts: Any, source: str) -> ReleasedModel:
    """A preset of plain values. Raises UserError for one that is not whole, or exceeds the bounds of any model."""
    if not isinstance(facts, Mapping):
        raise UserError(f"{source} is no preset: {_ADVICE}")
    try:
        preset: ReleasedModel = checked(ReleasedModel, {"name": Path(source).stem, **facts}, "it")
        UMT5Config.of(preset.text_encoder)
        Wan22Config.of(preset.video_codec)
        MMAudioConfig.of(preset.audio_codec)
    except UserError as error:
        raise UserError(f"{source} is no preset ({error}): {_ADVICE}") from error
    return replace(preset, model=model_settings(preset.model, f"{source}: model"))


def load_released(
    path: str | Path,
    model_config: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> TwinDiT:
    """A TwinDiT with the weights of a file in the released layout, frozen and set to evaluation.

    Names and shapes are compared before a tensor is read. The model never exists a second time: it is built
    without memory, and each tensor goes from the mapped file straight to its type and device. On the CPU and
    in the file's own type the parameters are the mapped file, read as they are used; replace such a file by
    another name (as every tool here does), never in place.

    Args:
        path: a .safetensors file, its index where it is in shards, or the folder that holds it.
        model_config: arguments of TwinDiT (see `released_model(name).model`).
        dtype: of all parameters; None keeps the file's.
        device: to put them on.

    Raises:
        UserError: no such file, not whole, or the weights of another model.
    """
    files = TensorFiles.open(path, "model weights")
    stored, surplus = model_of(files)
    settings = model_settings(model_config)
    held = {**stored.tensors, **{name: files.tensors[name] for name in surplus}}
    check_model(settings, held, str(stored.path))
    return load_towers(stored, settings, str(stored.path), dtype, device, unread=True)


def load_towers(
    stored: Stored,
    settings: Mapping[str, Any],
    source: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    unread: bool = False,
) -> TwinDiT:
    """The model of checked settings with stored weights, as `load_released` loads them; `source` names them.

    With `unread`, weights that stay the mapped file are not looked at for values that are no numbers.
    """
    with torch.device("meta"):
        model = TwinDiT(**settings)
    converted: dict[str, Tensor] = {}
    for name, tensor in stored.stream():
        copied = tensor.to(device, dtype if tensor.is_floating_point() else None)
        # what stays the mapped file is read as it is used; the latents made by it are checked then
        mapped = unread and copied is tensor
        converted[name] = copied if mapped else finite(name, copied, source)
        del tensor, copied
    model.load_state_dict(converted, strict=True, assign=True)
    return model.requires_grad_(False).eval()
