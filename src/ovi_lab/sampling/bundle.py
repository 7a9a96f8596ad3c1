"""What is sampled: a model's towers, text encoder, codecs and formats, opened and checked before they are loaded.

`opening.py` opens a run of ours or the released layout. A run whose checkpoint holds its codec is complete; one that
was trained on published latents takes the codecs and the text encoder from a folder of released weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ovi_lab.checkpoints.digests import Digests
from ovi_lab.checkpoints.presets import ReleasedModel
from ovi_lab.codecs.mmaudio import MMAudioCodec
from ovi_lab.codecs.wan22 import Wan22VAE
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.text import LearnedText, SeparateText, UMT5Text
from ovi_lab.text.learned import word_count
from ovi_lab.text.lengths import CutTexts
from ovi_lab.text.parts import TextParts
from ovi_lab.text.umt5 import MAX_TOKENS, load_tokenizer, token_count
from ovi_lab.weights.fit import finite
from ovi_lab.weights.tensor_files import Stored

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
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
    length: float = 1.0
    """How many times as long as the clips trained on."""

    @property
    def frames(self) -> int:
        """Of a clip's picture."""
        if "video" not in self.shapes:
            samples = self.shapes["audio"][0] * self.token_samples
            return max(1, round(samples * self.fps / self.sample_rate))
        return self.frames_before(self.shapes["video"][1])

    @property
    def samples(self) -> int:
        """Of a clip's sound, which lasts as long as its picture."""
        return round(self.frames * self.sample_rate / self.fps)

    def frames_before(self, latent_frame: int) -> int:
        """Frames of the picture before a latent frame, by its number from 0."""
        alone = min(int(self.first_frame_alone), latent_frame)
        return alone + (latent_frame - alone) * self.strides[0]

    def edges(self, modality: Modality) -> list[float]:
        """Seconds at which each latent frame or token of a clip begins, and at last the clip's end."""
        seconds = self.frames / self.fps
        if modality == "video":
            return [self.frames_before(n) / self.fps for n in range(self.shapes["video"][1] + 1)]
        starts = [n * self.token_samples / self.sample_rate for n in range(self.shapes["audio"][0])]
        return [*(min(start, seconds) for start in starts), seconds]

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
    text: LearnedText | SeparateText | UMT5Text
    towers: TwinDiT
    video: Any
    sound: Any


@dataclass(frozen=True)
class TextSource:
    """The text encoder of a bundle: its class, its arguments and, of a run, its stored tensors."""

    encoder: type[LearnedText] | type[SeparateText] | type[UMT5Text]
    settings: Mapping[str, Any]
    stored: Stored | None = None

    def load(self, device: Any = "cpu", long_prompts: str | None = None) -> Any:
        """The encoder, in its file's type; `long_prompts`: see `ovi_lab.text.lengths`, None: as in training."""
        text: Any = self.encoder(**self.settings)
        if long_prompts is not None:
            each: Any = text.encoders.values() if isinstance(text, SeparateText) else [text]
            for own in each:
                own.fit = CutTexts(own.fit.limit, own.fit.count, long_prompts, OPTION)
        if self.stored is not None:
            source = str(self.stored.path)
            text.load_state_dict(
                {name: finite(name, tensor, source) for name, tensor in self.stored.stream()}
            )
        return text.to(device).eval()

    def length_check(self, long_prompts: str) -> CutTexts:
        """Holds texts against the length that the encoder reads, without loading its weights."""
        count: Callable[[str], int] = word_count
        most = self.settings.get("max_words", 16)
        if self.encoder is UMT5Text:
            count = partial(token_count, load_tokenizer(self.settings["tokenizer"]))
            most = self.settings.get("max_tokens", MAX_TOKENS)
        if self.encoder is SeparateText or self.settings.get("reads") is not None:
            parts = TextParts(self.settings.get("reads") or {}, self.settings.get("sound_after"))
            own = count
            return CutTexts(
                most, lambda text: max(own(parts(text, m)) for m in MODALITIES), long_prompts, OPTION
            )
        return CutTexts(most, count, long_prompts, OPTION)


@dataclass(frozen=True)
class Bundle:
    """An opened model."""

    formats: Formats
    layers: int
    """Blocks of a tower."""
    text: TextSource
    towers: Callable[[torch.dtype, Any], TwinDiT]
    """Loads them in a type to a device."""
    codecs: Callable[[torch.dtype, Any], tuple[Any, Any]]
    """Likewise of picture and sound."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """The weights whose SHA-256 is not known, by their names in a clip's record."""
    known_digests: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
    """Bytes of all weights."""
    preset: ReleasedModel | None = None
    """Sizes by which memory is predicted; None where a codec is the run's own, or a tower is missing."""
    rope_factor: float | None = None
    """Another audio RoPE factor than the model was trained with."""

    @property
    def name(self) -> str:
        """Of the model."""
        return self.formats.name

    @property
    def own_codec(self) -> bool:
        """Whether the run brings its codec, as those of the ball world do: small, in float32, on the CPU."""
        return self.formats.area is None

    def digests(self) -> Callable[[], dict[str, str]]:
        """Starts hashing; what it returns waits for the SHA-256 of all weights by their files' names."""
        hashed = Digests(self.files)
        return lambda: {**self.known_digests, **hashed.result()}

    def load_towers(self, dtype: torch.dtype, device: Any = "cpu") -> TwinDiT:
        """The towers alone."""
        towers = self.towers(dtype, device)
        if self.rope_factor is not None:
            towers.set_audio_rope_factor(self.rope_factor)
        return towers

    def load(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        on_part: Callable[[int, int, str], None] = lambda done, total, name: None,
        long_prompts: str = "refuse",
    ) -> Parts:
        """Load every part, strictly by name and shape; small parts first, so that a wrong file is reported soon.

        umT5 keeps the type of its file (bf16, as published); the sound codec is in float32.

        Args:
            dtype: of the towers and the Wan2.2 VAE.
            device: to put everything on. On the CPU, what keeps its file's type stays the mapped file.
            on_part: called with parts done, parts in all and the name of the next.
            long_prompts: how texts of more tokens than the encoder reads are handled, see `ovi_lab.text.lengths`.

        Raises:
            UserError: a file is damaged, holds code, or another model or size; or parts do not belong together.
        """
        on_part(0, 3, "codecs")
        video, sound = self.codecs(dtype, device)
        on_part(1, 3, "text encoder")
        text = self.text.load(device, long_prompts)
        on_part(2, 3, "towers")
        towers = self.load_towers(dtype, device)
        on_part(3, 3, "")
        for modality, codec in zip(MODALITIES, (video, sound), strict=True):
            config = towers.tower_configs.get(modality)
            if config is not None and config.in_dim != codec.channels:
                raise UserError(
                    f"the {modality} codec has {codec.channels} channels and the {modality} tower {config.in_dim}: "
                    f"the parts of {self.name} do not belong together"
                )
        return Parts(self.formats, text, towers, video, sound)


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
