"""The layout of the folder of all weights, and a check that its files are complete.

DIR/
  Ovi/model.safetensors                                 the twin towers (or model_960x960.safetensors, …)
  Wan2.2-TI2V-5B/Wan2.2_VAE.pth                         picture to latents and back
  Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth        text to vectors
  Wan2.2-TI2V-5B/google/umt5-xxl/                       its tokenizer
  MMAudio/ext_weights/v1-16.pth                         sound to latents and back, as mel spectra
  MMAudio/ext_weights/best_netG.pt                      mel spectra to waves

A .pth or .pt file may be replaced by a .safetensors file of the same names beside it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ovi_lab.checkpoints.presets import PRESET_FILE, ReleasedModel
from ovi_lab.errors import UserError
from ovi_lab.weights.tensor_files import INDEX_SUFFIX, TensorFiles

MODEL = "Ovi/model.safetensors"
VIDEO_VAE = "Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
TEXT_ENCODER = "Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "Wan2.2-TI2V-5B/google/umt5-xxl"
AUDIO_VAE = "MMAudio/ext_weights/v1-16.pth"
VOCODER = "MMAudio/ext_weights/best_netG.pt"

_WAN, _MMAUDIO = "https://huggingface.co/Wan-AI/Wan2.2-TI2V-5B", "https://huggingface.co/hkchengrex/MMAudio"
PARTS = {
    "model": ("Ovi towers", "https://github.com/character-ai/Ovi", MODEL),
    "video_vae": ("Wan2.2 VAE", _WAN, VIDEO_VAE),
    "text_encoder": ("umT5 encoder", _WAN, TEXT_ENCODER),
    "tokenizer": ("umT5 tokenizer", _WAN, TOKENIZER),
    "audio_vae": ("MMAudio VAE", _MMAUDIO, AUDIO_VAE),
    "vocoder": ("BigVGAN vocoder", _MMAUDIO, VOCODER),
}
"""The name of each part, where its authors publish it, and its path below the folder (the preset has the model's)."""


@dataclass(frozen=True)
class Layout:
    """The path of each part; all were complete by their headers when this was made."""

    folder: Path
    model: Path
    video_vae: Path
    text_encoder: Path
    tokenizer: Path
    audio_vae: Path
    vocoder: Path

    def weight_files(self) -> dict[str, Path]:
        """Every file of weights by its path below the folder; shards one by one."""
        files = [self.video_vae, self.text_encoder, self.audio_vae, self.vocoder]
        files += sorted({t.file for t in TensorFiles.open(self.model).tensors.values()})
        return {file.relative_to(self.folder).as_posix(): file for file in sorted(files)}


def find_layout(weights: str | Path, preset: ReleasedModel) -> Layout:
    """All parts of a preset below a folder. Raises UserError as `find_parts`."""
    return Layout(Path(weights), **find_parts(weights, preset))


def find_parts(
    weights: str | Path, preset: ReleasedModel, parts: Collection[str] = tuple(PARTS)
) -> dict[str, Path]:
    """Some parts of a preset below a folder, by their names in `PARTS`.

    Raises:
        UserError: the folder, or parts of it, are missing or not whole; all faults in one line.
    """
    weights = Path(weights)
    if not weights.is_dir():
        raise UserError(
            f"weights={weights} is no folder: name the one that holds Ovi, Wan2.2-TI2V-5B and MMAudio"
        )
    found = {part: path for part in parts if (path := place(weights, part, preset)) is not None}
    # with a preset it is an untrusted folder; links in the user's own, which has none, are followed
    if (weights / PRESET_FILE).is_file():
        for part, path in found.items():
            if not path.resolve().is_relative_to(weights.resolve()):
                raise UserError(
                    f"{path} is a link that leads outside {weights}, refused: put the {PARTS[part][0]} there itself"
                )
    wrong = [line for part in parts if (line := fault(weights, part, preset))]
    if wrong:
        raise UserError("; ".join(wrong))
    return found


def place(weights: Path, part: str, preset: ReleasedModel) -> Path | None:
    """The path of a part, or None."""
    if part == "model":
        return preset.weights_file(weights)
    path = weights / PARTS[part][2]
    if part == "tokenizer":
        return path if path.is_dir() else None
    return next((p for p in (path, path.with_suffix(".safetensors")) if p.is_file()), None)


def fault(weights: Path, part: str, preset: ReleasedModel) -> str | None:
    """The fault of a part by its headers alone, in one line with the remedy; None without one."""
    what, source, default = PARTS[part]
    path = place(weights, part, preset)
    if path is None:
        expected = weights / (preset.file if part == "model" else default)
        return f"no {what} at {expected}: fetch it from {source}"
    if part == "tokenizer":
        names = ("tokenizer.json", "spiece.model")
        if not any((path / name).is_file() for name in names):
            return f"{path} holds neither {' nor '.join(names)}: fetch the {what} from {source}"
        return None
    if path.suffix == ".safetensors" or path.name.endswith(INDEX_SUFFIX):
        try:
            TensorFiles.open(path, what)
        except UserError as error:
            return str(error)
        return None
    # torch's own format ends with the directory of a zip archive; loading checks the rest. What older versions of
    # torch wrote is no archive, and only loading tells.
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if path.stat().st_size == 0 or (zipped and not zipfile.is_zipfile(path)):
        return f"{path} ({path.stat().st_size} bytes) is cut short or empty: fetch the {what} again from {source}"
    return None
