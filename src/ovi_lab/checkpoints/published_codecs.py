"""The codecs of picture and sound in a folder of released weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ovi_lab.checkpoints.presets import PRESET_FILE, ReleasedModel, released_model
from ovi_lab.codecs.mmaudio import MMAudioCodec
from ovi_lab.codecs.wan22 import Wan22VAE

PUBLISHED = "ovi_960x960_10s"
"""The preset whose text encoder and codecs are the published ones: all released models share them."""


def sizes_in(weights: str | Path | None) -> ReleasedModel:
    """The sizes of the codecs and umT5 in a folder: those of its own preset.yaml, else the published ones."""
    brings = weights is not None and (Path(weights) / PRESET_FILE).is_file()
    return released_model(str(weights) if brings else PUBLISHED)


def load_codecs(
    preset: ReleasedModel, files: Mapping[str, Path], dtype: torch.dtype, device: Any
) -> tuple[Wan22VAE, MMAudioCodec]:
    """Both from their files; the sound's in float32, since BigVGAN's sines are audible when rounded."""
    sound = MMAudioCodec.from_files(
        files["audio_vae"], files["vocoder"], preset.audio_codec, torch.float32, device
    )
    return Wan22VAE.from_file(files["video_vae"], preset.video_codec, dtype, device), sound
