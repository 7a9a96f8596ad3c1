"""Configuration of the twin model: plain mappings in, frozen dataclasses out, all else refused by name.

One set of fields describes every size: the tiny model of a laptop and the 11-billion-parameter model differ
in numbers only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ovi_lab.common.typed import MAX_LAYERS, MAX_WIDTH
from ovi_lab.errors import UserError

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")

FUSION_DIRECTIONS = ("bidirectional", "none", "audio_to_video", "video_to_audio")
FUSION_INITS = ("both", "reference")
ROPE_MODES = ("constant", "clip_ratio", "learned")
ATTENTION_BACKENDS = ("sdpa", "flash")

PAPER_AUDIO_ROPE_FACTOR = 0.19676
"""Audio temporal RoPE factor of the released configuration; the paper's 31 / 157 is 0.19745."""

_Config = TypeVar("_Config")


def checked_fields(cls: type[Any], mapping: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The mapping as keyword arguments of dataclass `cls`.

    Raises UserError for a key that is no field of `cls` and for a required field that is missing, with the
    valid keys listed.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{what} is {mapping!r} ({type(mapping).__name__}); expected a mapping of settings")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("key", True)}
    unknown = [str(key) for key in mapping if key not in fields]
    if unknown:
        raise UserError(
            f"{what} has unknown key {', '.join(unknown)}; valid keys: {', '.join(sorted(fields))}"
        )
    required = [name for name, f in fields.items() if f.default is dataclasses.MISSING]
    missing = [name for name in required if name not in mapping]
    if missing:
        raise UserError(f"{what} lacks {', '.join(missing)}; required keys: {', '.join(required)}")
    return {str(key): value for key, value in mapping.items()}


def check_choice(what: str, value: object, choices: Sequence[str]) -> None:
    """Raises UserError unless `value` is one of `choices`."""
    if value not in choices:
        raise UserError(f"{what} is {value!r}; expected one of {', '.join(choices)}")


def check_positive_int(what: str, value: object, most: int | None = None) -> None:
    """Raises UserError unless `value` is an int of at least 1 (a bool is none), and of at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{what} is {value!r}; expected a whole number of at least 1")
    if most is not None and value > most:
        raise UserError(f"{what} is {value}; expected at most {most}")


def check_positive_number(what: str, value: object) -> None:
    """Raises UserError unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{what} is {value!r}; expected a finite number above 0")


@dataclass(frozen=True)
class TowerConfig:
    """One tower: a diffusion transformer over video latents or over audio latents.

    Widths are in channels, `text_len` in text tokens, `patch_size` in latent cells (frames, rows, columns).
    `modality` is set by the caller that builds the tower and is no key of the mapping.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_dim: int
    out_dim: int | None = None
    """Latent channels predicted; None means as many as `in_dim`."""
    freq_dim: int = 256
    """Width of the sinusoidal time embedding."""
    text_len: int = 512
    text_dim: int = 4096
    eps: float = 1e-6
    """Epsilon of every normalisation in the tower."""
    patch_size: tuple[int, ...] | None = None
    """Video only, (1, 2, 2) by default. Audio latents are one token each."""
    patch_kernel_size: int | None = None
    """Audio only, odd, 7 by default: latents each token of the patch embedding sees."""
    patch_hidden_dim: int | None = None
    """Audio only: hidden width of the patch embedding; None means int(2 * 4 * dim / 3), rounded up to 256. 0 leaves
    one plain convolution, which small towers learn through much sooner."""
    modality: Modality = dataclasses.field(default="video", metadata={"key": False})

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], modality: Modality) -> TowerConfig:
        """The checked configuration; UserError names a wrong key or value and the valid ones."""
        what = f"the {modality} tower's configuration"
        values = checked_fields(cls, mapping, what)
        other = ("patch_kernel_size", "patch_hidden_dim") if modality == "video" else ("patch_size",)
        for key in other:
            if key == "patch_size" and values.get(key) is not None and tuple(values[key]) == (1,):
                values[key] = None  # the reference writes its audio tower's patch size as [1]
            if values.get(key) is not None:
                raise UserError(f"{what} has {key}={values[key]!r}, which no {modality} tower has; remove it")
        if modality == "video":
            patch = values.get("patch_size")
            values["patch_size"] = (1, 2, 2) if patch is None else tuple(patch)
            if len(values["patch_size"]) != 3:
                raise UserError(
                    f"{what} has patch_size={patch!r}; expected three numbers: frames, rows, columns"
                )
            for size in values["patch_size"]:
                check_positive_int(f"{what}: patch_size", size, MAX_LAYERS)
        else:
            values["patch_size"] = (1,)
            if values.get("patch_kernel_size") is None:
                values["patch_kernel_size"] = 7
        if values.get("out_dim") is None:
            values["out_dim"] = values["in_dim"]
        config = cls(**values, modality=modality)
        config._check(what)
        return config

    def _check(self, what: str) -> None:
        names = (
            "dim",
            "ffn_dim",
            "num_heads",
            "num_layers",
            "in_dim",
            "out_dim",
            "freq_dim",
            "text_len",
            "text_dim",
        )
        for name in names:
            most = MAX_LAYERS if name == "num_layers" else MAX_WIDTH
            check_positive_int(f"{what}: {name}", getattr(self, name), most)
        for name in ("patch_kernel_size", "patch_hidden_dim"):
            value = getattr(self, name)
            if value is not None and not (name == "patch_hidden_dim" and value == 0):
                check_positive_int(f"{what}: {name}", value, MAX_WIDTH)
        check_positive_number(f"{what}: eps", self.eps)
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


@dataclass(frozen=True)
class FusionConfig:
    """Which way, and in which blocks, the towers read each other."""

    direction: str = "bidirectional"
    """`audio_to_video`: the video tower reads the audio stream; `video_to_audio`: the audio tower reads the
    video stream; `none`: both towers train side by side without exchange."""
    blocks: str | Mapping[str, int] | tuple[int, ...] = "all"
    """`all`, `{every: k}` (blocks 0, k, 2k, …), or a list of block indices."""
    fusion_init: str = "both"
    """`both` divides the initial fusion projections of both towers by 10, so that fusion starts small on both
    sides; `reference` does so in the video tower only, as the released code does."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> FusionConfig:
        """The checked configuration; UserError names a wrong key or value and the valid ones."""
        config = cls(**checked_fields(cls, mapping, "fusion"))
        check_choice("fusion.direction", config.direction, FUSION_DIRECTIONS)
        check_choice("fusion.fusion_init", config.fusion_init, FUSION_INITS)
        blocks: object = config.blocks
        if isinstance(blocks, str):
            check_choice("fusion.blocks", blocks, ("all", "{every: k}", "a list of block indices"))
            return config
        if isinstance(blocks, Mapping):
            if list(blocks) != ["every"]:
                raise UserError(
                    f"fusion.blocks has keys {list(blocks)}; the one valid key is every: {{every: 2}}"
                )
            check_positive_int("fusion.blocks.every", blocks["every"])
            return dataclasses.replace(config, blocks={"every": blocks["every"]})
        if not isinstance(blocks, Sequence):
            raise UserError(
                f"fusion.blocks is {blocks!r}; expected all, {{every: k}} or a list of block indices"
            )
        for index in blocks:
            if isinstance(index, bool) or not isinstance(index, int):
                raise UserError(
                    f"fusion.blocks holds {index!r}; expected block indices, whole numbers from 0"
                )
        return dataclasses.replace(config, blocks=tuple(sorted(set(blocks))))

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


@dataclass(frozen=True)
class RopeConfig:
    """How audio positions are mapped to video time in the rotary embedding.

    Video positions are latent frames, rows and columns; an audio token at index n stands at factor * n. With
    factor = video latent frames / audio tokens, what is simultaneous has one position (the paper's scaled
    RoPE, arXiv 2510.01284).
    """

    mode: str = "constant"
    """`constant`: `factor` for every clip; `clip_ratio`: every clip's own video latent frames / audio tokens
    (where there is no video, `factor`); `learned`: one parameter that starts at `factor`."""
    factor: float = PAPER_AUDIO_ROPE_FACTOR
    """1.0 means unscaled."""
    theta: float = 10_000.0

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> RopeConfig:
        """The checked configuration; UserError names a wrong key or value and the valid ones."""
        config = cls(**checked_fields(cls, mapping, "rope"))
        check_choice("rope.mode", config.mode, ROPE_MODES)
        check_positive_number("rope.factor", config.factor)
        check_positive_number("rope.theta", config.theta)
        return config


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
    """The configuration in plain types, as `from_mapping` takes it."""
    keys = [f.name for f in dataclasses.fields(config) if f.metadata.get("key", True)]
    values = {key: getattr(config, key) for key in keys}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
