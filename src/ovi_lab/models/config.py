"""Configuration of the twin model: plain mappings in, frozen dataclasses out, all else refused by name.

One set of fields describes every size: the tiny model of a laptop and the 11-billion-parameter model differ
in numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ovi_lab.common.fields import CLOSED, MAX_WIDTH, AtLeastOne, Count, Layers, Positive, Width, whole
from ovi_lab.errors import UserError

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")

PAPER_AUDIO_ROPE_FACTOR = 0.19676
"""Audio temporal RoPE factor of the released configuration; the paper's 31 / 157 is 0.19745."""


@dataclass(frozen=True, config=CLOSED)
class TowerConfig:
    """One tower: a diffusion transformer over video latents or over audio latents.

    Widths are in channels, `text_len` in text tokens, `patch_size` in latent cells (frames, rows, columns).
    `modality` is set by the caller that builds the tower and is no key of the mapping.
    """

    dim: Width
    ffn_dim: Width
    num_heads: Width
    num_layers: Layers
    in_dim: Width
    out_dim: Width | None = None
    """Latent channels predicted; None means as many as `in_dim`."""
    freq_dim: Width = 256
    """Width of the sinusoidal time embedding."""
    text_len: Width = 512
    text_dim: Width = 4096
    eps: Positive = 1e-6
    """Epsilon of every normalisation in the tower."""
    patch_size: tuple[Layers, ...] | None = None
    """Video only, (1, 2, 2) by default. Audio latents are one token each."""
    patch_kernel_size: Width | None = None
    """Audio only, odd, 7 by default: latents each token of the patch embedding sees."""
    patch_hidden_dim: Annotated[int, whole(0, MAX_WIDTH)] | None = None
    """Audio only: hidden width of the patch embedding; None means int(2 * 4 * dim / 3), rounded up to 256. 0 leaves
    one plain convolution, which small towers learn through much sooner."""
    modality: Modality = "video"

    def __post_init__(self) -> None:
        """Sets what depends on other fields, and checks how they fit; UserError names what does not."""
        what, video = f"the {self.modality} tower's configuration", self.modality == "video"
        # the reference writes its audio tower's patch size as [1]
        foreign = {"patch_size": None if self.patch_size == (1,) else self.patch_size}
        defaults: dict[str, Any] = {"out_dim": self.in_dim, "patch_size": (1,), "patch_kernel_size": 7}
        if video:
            foreign = {n: getattr(self, n) for n in ("patch_kernel_size", "patch_hidden_dim")}
            defaults = {"out_dim": self.in_dim, "patch_size": (1, 2, 2)}
        for key, value in foreign.items():
            if value is not None:
                raise UserError(f"{what} has {key}={value}, which no {self.modality} tower has; remove it")
        for key, value in defaults.items():
            if getattr(self, key) is None:
                object.__setattr__(self, key, value)
        if video and len(self.patch_size or ()) != 3:
            raise UserError(
                f"{what} has patch_size={self.patch_size}; expected three numbers: frames, rows, columns"
            )
        if self.dim % self.num_heads:
            raise UserError(
                f"{what}: dim={self.dim} does not divide by num_heads={self.num_heads}; change one"
            )
        if self.head_dim % 2 or self.head_dim < 6:
            raise UserError(
                f"{what}: head dim {self.head_dim} (dim / num_heads) cannot carry rotary positions; "
                "it must be even and at least 6"
            )
        if self.freq_dim % 2:
            raise UserError(f"{what}: freq_dim={self.freq_dim} is odd; expected an even number")
        if self.patch_kernel_size is not None and self.patch_kernel_size % 2 == 0:
            raise UserError(
                f"{what}: patch_kernel_size={self.patch_kernel_size} is even; expected an odd number"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.num_heads

    @property
    def out_channels(self) -> int:
        """Latent channels the tower predicts."""
        return self.in_dim if self.out_dim is None else self.out_dim

    @property
    def audio_patch_hidden(self) -> int:
        """Hidden width of the audio patch embedding's gated convolutions (8192 at the full size)."""
        if self.patch_hidden_dim is not None:
            return self.patch_hidden_dim
        return 256 * math.ceil(int(2 * 4 * self.dim / 3) / 256)


Blocks = Annotated[
    Literal["all"]
    | Annotated[dict[Literal["every"], AtLeastOne], Field(min_length=1)]
    | Annotated[tuple[Count, ...], AfterValidator(lambda indices: tuple(sorted(set(indices))))],
    Field(description="all, {every: k} with k of at least 1, or a list of block indices from 0"),
]


@dataclass(frozen=True, config=CLOSED)
class FusionConfig:
    """Which way, and in which blocks, the towers read each other."""

    direction: Literal["bidirectional", "none", "audio_to_video", "video_to_audio"] = "bidirectional"
    """`audio_to_video`: the video tower reads the audio stream; `video_to_audio`: the audio tower reads the
    video stream; `none`: both towers train side by side without exchange."""
    blocks: Blocks = "all"
    """`all`, `{every: k}` (blocks 0, k, 2k, …), or a list of block indices."""
    fusion_init: Literal["both", "reference"] = "both"
    """`both` divides the initial fusion projections of both towers by 10, so that fusion starts small on both
    sides; `reference` does so in the video tower only, as the released code does."""

    def block_indices(self, num_layers: int) -> frozenset[int]:
        """Indices of the fused blocks in a model of `num_layers` blocks; UserError for an index past them."""
        if self.direction == "none":
            return frozenset()
        if isinstance(self.blocks, str):
            return frozenset(range(num_layers))
        if isinstance(self.blocks, Mapping):
            return frozenset(range(0, num_layers, self.blocks["every"]))
        for index in self.blocks:
            if not 0 <= index < num_layers:
                raise UserError(
                    f"fusion.blocks names block {index}; this model has blocks 0 to {num_layers - 1}"
                )
        return frozenset(self.blocks)

    def reads_other(self, modality: Modality) -> bool:
        """Whether the tower of `modality` reads the other tower's stream."""
        reader = "audio_to_video" if modality == "video" else "video_to_audio"
        return self.direction in ("bidirectional", reader)


@dataclass(frozen=True, config=CLOSED)
class RopeConfig:
    """How audio positions are mapped to video time in the rotary embedding.

    Video positions are latent frames, rows and columns; an audio token at index n stands at factor * n. With
    factor = video latent frames / audio tokens, what is simultaneous has one position (the paper's scaled
    RoPE, arXiv 2510.01284).
    """

    mode: Literal["constant", "clip_ratio", "learned"] = "constant"
    """`constant`: `factor` for every clip; `clip_ratio`: every clip's own video latent frames / audio tokens
    (where there is no video, `factor`); `learned`: one parameter that starts at `factor`."""
    factor: Positive = PAPER_AUDIO_ROPE_FACTOR
    """1.0 means unscaled."""
    theta: Positive = 10_000.0
    video_factor: Positive = 1.0
    """The position of latent frame n is video_factor * n. With the seconds of a frame here and those of an audio token
    as `factor`, both towers' positions are seconds."""


def check_towers(configs: Mapping[Modality, TowerConfig], fusion: FusionConfig) -> None:
    """Raises UserError unless the towers and their fusion fit each other."""
    if not configs:
        raise UserError("the model has neither a video nor an audio tower; configure at least one")
    if len(configs) == 1:
        if fusion.direction != "none":
            raise UserError(f"fusion.direction is {fusion.direction!r} with one tower; use fusion=none")
        return
    video, audio = configs["video"], configs["audio"]
    for name in ("num_layers", "head_dim"):
        if getattr(video, name) != getattr(audio, name):
            raise UserError(
                f"{name} is {getattr(video, name)} in the video, {getattr(audio, name)} in the audio tower; "
                "make them equal: blocks are paired and share rotary positions"
            )


def plain_settings(config: TowerConfig | FusionConfig | RopeConfig) -> dict[str, Any]:
    """The configuration in plain types, as `checked` takes it."""
    values = {key: value for key, value in asdict(config).items() if key != "modality"}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
