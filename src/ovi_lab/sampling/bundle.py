"""What is sampled: a model's towers, text encoder, codecs and formats, opened and checked before they are loaded.

A run of ours and the released layout are two ways to open a bundle. A run whose checkpoint holds its codec is complete;
one that was trained on published latents takes the codecs and the text encoder from a folder of released weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ovi_lab.checkpoints.digests import Digests
from ovi_lab.checkpoints.presets import (
    ReleasedModel,
    load_released,
)
from ovi_lab.checkpoints.weights_layout import Layout
from ovi_lab.codecs.mmaudio import MMAudioCodec
from ovi_lab.codecs.wan22 import Wan22VAE
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES
from ovi_lab.text import LearnedText, UMT5Text
from ovi_lab.text.lengths import CutTexts
from ovi_lab.text.umt5 import MAX_TOKENS, load_tokenizer, token_count

OPTION = "long_prompts="
MAX_PIXELS, MAX_SAMPLES = 2**31, 2**28
"""In a clip; the released models' largest has 2.2e8 pixels in 241 frames and 1.6e5 samples."""


@dataclass(frozen=True)
class Formats:
    """What a model's clips are, in latents and as media."""

    name: str
    """Of the model."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of one clip's latents: video [C,F,h,w] and audio [L,C], those that the model has."""
    fps: float
    sample_rate: int
    strides: tuple[int, int, int]
    """Frames, rows and columns of one latent position."""
    first_frame_alone: bool
    """Whether the first frame is a latent frame by itself, and can be given as an image."""
    token_samples: int
    area: tuple[int, int] | None = None
    """Height and width whose product a clip's picture has, about; None: every clip has the size trained on."""
    audio_tag: str | None = None
    """How a prompt describes the sound; `{}` marks its place. None: prompts are taken as they are."""
    noise: str = "named"
    """See `noise_for`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else of the model changes a clip, for its record."""

    @property
    def frames(self) -> int:
        """Of a clip's picture."""
        if "video" not in self.shapes:
            samples = self.shapes["audio"][0] * self.token_samples
            return max(1, round(samples * self.fps / self.sample_rate))
        alone = int(self.first_frame_alone)
        return alone + (self.shapes["video"][1] - alone) * self.strides[0]

    def check_size(self) -> None:
        """Raises UserError for latents that decode to more than any clip is."""
        _, _, *sides = self.shapes.get("video", (1, 1, 16, 16))
        pixels = self.frames * math.prod(
            n * stride for n, stride in zip(sides, self.strides[1:], strict=True)
        )
        samples = self.shapes.get("audio", (0, 0))[0] * self.token_samples
        if pixels > MAX_PIXELS or samples > MAX_SAMPLES:
            raise UserError(
                f"clips of {self.name} would have {pixels} pixels in all frames and {samples} samples: more than any "
                "clip that is made here"
            )


@dataclass(frozen=True)
class Parts:
    """All of a model that sampling runs, in memory."""

    formats: Formats
    text: LearnedText | UMT5Text
    towers: TwinDiT
    video: Any
    sound: Any


@dataclass(frozen=True)
class Bundle:
    """An opened model; its loaders take the type and the device to load to."""

    formats: Formats
    layers: int
    """Blocks of a tower."""
    load_text: Callable[[Any, Any, str | None], nn.Module]
    """The last argument says how long prompts are handled; None: as in training."""
    load_towers: Callable[[torch.dtype, Any], TwinDiT]
    load_codecs: Callable[[torch.dtype, Any], tuple[Any, Any]]
    """Of picture and sound."""
    length_check: Callable[[str], CutTexts]
    """Texts held against the length that the text encoder reads, without loading it."""
    digests: Callable[[], Callable[[], Mapping[str, str]]]
    """Starts hashing; what it returns waits for the SHA-256 of all weights by their files' names."""
    size: int
    """Bytes of all weights."""
    preset: ReleasedModel | None = None
    """Sizes by which memory is predicted; None where a codec is the run's own, or a tower is missing."""

    @property
    def name(self) -> str:
        """Of the model."""
        return self.formats.name

    @property
    def own_codec(self) -> bool:
        """Whether the run brings its codec, as those of the ball world do: small, in float32, on the CPU."""
        return self.formats.area is None


# ------------------------------------------------------------------------------------------ the released layout
def released_bundle(preset: ReleasedModel, layout: Layout) -> Bundle:
    """A released model, or one of the same layout."""
    files = layout.weight_files()
    return Bundle(
        formats=released_formats(preset),
        layers=preset.model["video"]["num_layers"],
        load_text=partial(umt5_text, layout.text_encoder, layout.tokenizer, preset, None),
        load_towers=lambda dtype, device: load_released(layout.model, preset.model, dtype, device),
        load_codecs=partial(published_codecs, preset, vars(layout)),
        length_check=partial(token_check, layout.tokenizer, MAX_TOKENS),
        digests=lambda: Digests(files).result,
        size=sum(file.stat().st_size for file in files.values()),
        preset=preset,
    )


def released_formats(preset: ReleasedModel) -> Formats:
    """The clips of a preset."""
    channels = {m: preset.model[m]["in_dim"] for m in MODALITIES}
    height, width = (side // 16 for side in preset.area)
    shapes = {
        "video": (channels["video"], preset.video_latent_frames, height, width),
        "audio": (preset.audio_latents, channels["audio"]),
    }
    return Formats(
        preset.name, shapes, preset.fps, preset.sample_rate, Wan22VAE.strides, Wan22VAE.first_frame_alone,
        MMAudioCodec.token_samples, preset.area, preset.audio_tag, noise="reference",
    )  # fmt: skip


def lengthened(preset: ReleasedModel, length: float) -> ReleasedModel:
    """The preset of clips `length` times as long."""
    video, audio = (1, preset.video_latent_frames, 1, 1), (preset.audio_latents, 1)
    shapes = scaled_shapes({"video": video, "audio": audio}, length, "length")
    return replace(preset, video_latent_frames=shapes["video"][1], audio_latents=shapes["audio"][0])


def umt5_text(
    weights: Path,
    tokenizer: Path,
    preset: ReleasedModel,
    dim: int | None,
    dtype: Any,
    device: Any,
    too_long: str,
) -> nn.Module:
    """umT5 in its file's type, whatever the towers' is."""
    dim = preset.model["video"].get("text_dim", 4096) if dim is None else dim
    sizes = preset.text_encoder
    text = UMT5Text(
        weights, tokenizer, dim, configuration=sizes, too_long=too_long or "refuse", option=OPTION
    )
    return text.to(device).eval()


def token_check(tokenizer: Path, limit: int, choice: str) -> CutTexts:
    return CutTexts(limit, partial(token_count, load_tokenizer(tokenizer)), choice, OPTION)


def published_codecs(
    preset: ReleasedModel, files: Mapping[str, Path], dtype: torch.dtype, device: Any
) -> tuple[Any, Any]:
    """The sound's in float32, since BigVGAN's sines are audible when rounded."""
    sound = MMAudioCodec.from_files(
        files["audio_vae"], files["vocoder"], preset.audio_codec, torch.float32, device
    )
    return Wan22VAE.from_file(files["video_vae"], preset.video_codec, dtype, device), sound


def scaled_shapes(
    shapes: Mapping[str, Sequence[int]], length: float, option: str = "evaluation.length"
) -> dict[str, tuple[int, ...]]:
    """Latent shapes of clips `length` times as long, both modalities cut to the same duration."""
    if "video" not in shapes:
        L, D = shapes["audio"]
        if round(L * length) < 1:
            raise UserError(f"{option} is {length}: nothing is left of the sound")
        return {"audio": (round(L * length), D)}
    C, F, h, w = shapes["video"]
    frames = round(F * length)
    if frames < 1:
        raise UserError(f"{option} is {length}: no video frame is left")
    found: dict[str, tuple[int, ...]] = {"video": (C, frames, h, w)}
    if "audio" in shapes:
        L, D = shapes["audio"]
        found["audio"] = (round(L * frames / F), D)
    return found
