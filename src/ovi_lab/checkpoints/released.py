"""The released Ovi models: what each is, and loading weights of their layout into our model.

Facts of the presets: the released inference code and arXiv 2510.01284; `conf/released` holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ovi_lab.checkpoints.tensor_files import INDEX_SUFFIX, StoredTensor, TensorFiles
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.paths import config_dir

PRESET_FILE = "preset.yaml"
"""In a folder of weights: the preset that describes them, for a model that is none of the released."""


@dataclass(frozen=True)
class ReleasedModel:
    """One released model: its file and the clips it was trained on."""

    name: str
    file: str
    """Below the folder of all weights."""
    model_config: dict[str, Any]
    """Arguments of TwinDiT."""
    video_latent_frames: int
    audio_latents: int
    area: tuple[int, int]
    """Height and width in pixels whose product a clip's picture has, about."""
    fps: float
    sample_rate: int
    audio_tag: str
    """How the description of the sound is written in a prompt; `{}` stands for it."""
    text_encoder: dict[str, Any] = field(default_factory=dict)
    """Sizes of umT5 (`UMT5Config`) that differ from the published ones."""
    video_codec: dict[str, Any] = field(default_factory=dict)
    """Likewise of the Wan2.2 VAE (`Wan22Config`)."""
    audio_codec: dict[str, Any] = field(default_factory=dict)
    """Likewise of MMAudio's VAE and vocoder (`MMAudioConfig`)."""

    def weights_file(self, folder: str | Path) -> Path:
        """The file below `folder` (where it may lie without its subfolder), or the index of its shards.

        Raises:
            UserError: neither is there.
        """
        folder = Path(folder)
        places = [folder / self.file, folder / Path(self.file).name]
        for place in places:
            index = place.with_name(f"{place.stem}{INDEX_SUFFIX}")
            for found in (place, index):
                if found.is_file():
                    return found
        raise UserError(
            f"{self.name} needs {self.file}, which is not in {folder}: fetch it there, or correct weights="
        )


def released_names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in (config_dir() / "released").glob("*.yaml"))


def is_released(checkpoint: str | Path) -> bool:
    """Whether `checkpoint=` names a released model, or a folder in its layout with a preset of its own."""
    return str(checkpoint) in released_names() or _preset_file(checkpoint).is_file()


def released_model(name: str | Path) -> ReleasedModel:
    """The preset of a name such as `ovi_960x960_10s`, or the one that a folder of weights brings along.

    Raises:
        UserError: unknown name, or a preset.yaml that is none.
    """
    folder = config_dir()
    if str(name) in released_names():
        return _preset(folder / "released" / f"{name}.yaml", folder)
    if _preset_file(name).is_file():
        return _preset(_preset_file(name), folder)
    raise UserError(f"{str(name)!r} is no released model; there are {', '.join(released_names())}")


def _preset_file(place: str | Path) -> Path:
    place = Path(place)
    return place if place.name == PRESET_FILE else place / PRESET_FILE


def _preset(file: Path, folder: Path) -> ReleasedModel:
    """A preset whose model is either a name in `folder`/model or written out."""
    try:
        facts: Any = OmegaConf.load(file)
        model = facts.model
        if isinstance(model, str):
            parts = {
                part: OmegaConf.load(folder / part / f"{facts[part]}.yaml")
                for part in ("model", "fusion", "rope")
            }
            # the same references as in a composed run: the model's file points at fusion, rope and seed
            model = OmegaConf.create({**parts, "seed": 0}).model
        sizes: Any = {
            part: OmegaConf.to_container(facts[part]) if part in facts else {}
            for part in ("text_encoder", "video_codec", "audio_codec")
        }
        return ReleasedModel(
            name=str(facts.get("name", file.stem)),
            file=str(facts.file),
            model_config=model_settings(model),
            video_latent_frames=int(facts.video_latent_frames),
            audio_latents=int(facts.audio_latents),
            area=(int(facts.area[0]), int(facts.area[1])),
            fps=float(facts.fps),
            sample_rate=int(facts.sample_rate),
            audio_tag=str(facts.audio_tag),
            **sizes,
        )
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{file} is no preset ({_first_line(error)}): copy one of conf/released, or write it again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def model_settings(config: Mapping[str, Any] | DictConfig) -> dict[str, Any]:
    """Arguments of TwinDiT from a model's configuration, Hydra's own keys left out."""
    plain = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
    if not isinstance(plain, dict):
        raise UserError(f"a model is configured by a mapping, got {type(plain).__name__}")
    return {str(key): value for key, value in plain.items() if not str(key).startswith("_")}


def load_released(
    path: str | Path,
    model_config: Mapping[str, Any] | DictConfig,
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
        model_config: arguments of TwinDiT (see `released_model(name).model_config`).
        dtype: of all parameters; None keeps the file's.
        device: to put them on.

    Raises:
        UserError: no such file, not whole, or the weights of another model.
    """
    files = TensorFiles.open(path, "model weights")
    with torch.device("meta"):
        model = TwinDiT(**model_settings(model_config))
    check_fit(files.tensors, model.state_dict(), str(files.path))
    converted: dict[str, Tensor] = {}
    for name, tensor in files.stream():
        converted[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        del tensor
    model.load_state_dict(converted, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def check_fit(held: Mapping[str, StoredTensor], own: Mapping[str, Tensor], source: str) -> None:
    """Compare what a file holds with a model's state, by name and shape.

    Raises:
        UserError: the first tensor that is missing, unknown or of another shape, and how many are.
    """
    missing = [name for name in own if name not in held]
    unknown = [name for name in held if name not in own]
    if missing or unknown:
        facts = []
        if missing:
            facts.append(f"lacks {missing[0]} ({len(missing)} of {len(own)} missing)")
        if unknown:
            facts.append(f"has {unknown[0]} ({len(unknown)} unknown)")
        advice = "choose the configuration it was trained with"
        if "patch_embedding.weight" in held:
            advice = "it is one bare tower, which init_from.video takes"
        raise UserError(f"{source} does not fit this model: it {' and '.join(facts)}; {advice}")
    integers = [name for name, tensor in held.items() if not tensor.dtype.startswith(("F", "BF"))]
    if integers:
        raise UserError(
            f"{source} holds {integers[0]} as {held[integers[0]].dtype} ({len(integers)} such tensors): "
            "quantised weights need their own loader, take the file in bf16 or fp32"
        )
    wrong = [name for name, tensor in held.items() if tensor.shape != tuple(own[name].shape)]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{source} does not fit this model: {name} is {list(held[name].shape)}, expected "
            f"{list(own[name].shape)} ({len(wrong)} of {len(own)} tensors differ); choose its own model size"
        )
