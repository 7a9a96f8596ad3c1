"""The protocols of video and audio codecs, the classes by kind, and checks of what is encoded and decoded.

A codec is its configuration (plain values) and its tensors; `from_parts` makes the codec from both, so that
one safetensors file holds a pair of them whatever their kind. A new codec is one file and one line of `CODECS`.

Shape suffixes: B clips, T frames, H rows, W columns, C channels, F latent frames, h and w latent rows and
columns, S samples, L audio tokens.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ovi_lab.errors import UserError

CODECS = {
    "video": {"block_pca": "ovi_lab.codecs.block_pca:BlockPCA", "wan22": "ovi_lab.codecs.wan22:Wan22VAE"},
    "audio": {
        "band_vocoder": "ovi_lab.codecs.band_vocoder:BandVocoder",
        "mmaudio": "ovi_lab.codecs.mmaudio:MMAudioCodec",
    },
}
"""The class of each kind, as module:name; a module is imported when its kind is used."""


def codec_class(modality: str, kind: str) -> Any:
    """The class of codecs of that kind. Raises UserError naming those there are."""
    classes = CODECS[modality]
    if kind not in classes:
        raise UserError(f"no {modality} codec is called {kind!r}; there is {', '.join(sorted(classes))}")
    return pkgutil.resolve_name(classes[kind])


class Codec(Protocol):
    """A codec of either modality."""

    kind: str
    channels: int

    def config(self) -> dict[str, Any]: ...

    def tensors(self) -> dict[str, Tensor]: ...

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self: ...


class VideoCodec(Codec, Protocol):
    """Frames to latents and back."""

    strides: tuple[int, int, int]
    """Frames, rows and columns that become one latent position."""
    first_frame_alone: bool
    """Whether the first frame is a latent frame by itself, before groups of strides[0]."""

    def fit(self, batches_BTHWC: Iterable[Tensor]) -> None:
        """Fit the codec on uint8 frames; the same batches give the same codec."""
        ...

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        """uint8 [B,T,H,W,3] -> float32 [B,C,F,h,w]. Raises UserError for sizes that do not divide."""
        ...

    def decode(self, latents_BCFhw: Tensor) -> Tensor:
        """float [B,C,F,h,w] -> uint8 [B,T,H,W,3]."""
        ...


class AudioCodec(Codec, Protocol):
    """Mono waves to latents and back."""

    sample_rate: int
    token_samples: int
    """Samples that become one token."""

    def fit(self, batches_BS: Iterable[Tensor]) -> None:
        """Fit the codec on waves; the same batches give the same codec."""
        ...

    def encode(self, waves_BS: Tensor) -> Tensor:
        """float [B,S] in [-1,1] -> float32 [B,L,C]. Raises UserError for waves shorter than one token."""
        ...

    def decode(self, latents_BLC: Tensor, num_samples: int | None = None) -> Tensor:
        """float [B,L,C] -> float32 [B,S] in [-1,1]; S is `num_samples`, or L tokens' worth."""
        ...


def check_frames(frames_BTHWC: Tensor) -> None:
    """Raises UserError for anything but uint8 frames [B,T,H,W,3]."""
    if frames_BTHWC.ndim != 5 or frames_BTHWC.shape[-1] != 3 or frames_BTHWC.dtype != torch.uint8:
        raise UserError(
            f"frames of shape {list(frames_BTHWC.shape)} and {frames_BTHWC.dtype}: "
            "expected uint8 [clips, frames, rows, columns, 3]"
        )


def check_latents(latents: Tensor, modality: str, channels: int) -> None:
    """Raises UserError for anything but latents [B,channels,F,h,w] of video or [B,L,channels] of audio, not empty."""
    axis, form = (1, f"[B,{channels},F,h,w]") if modality == "video" else (2, f"[B,L,{channels}]")
    if latents.ndim != form.count(",") + 1 or latents.shape[axis] != channels or not latents.numel():
        raise UserError(f"{modality} latents of shape {list(latents.shape)}: expected {form}")


def check_stored(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises UserError for a tensor of a saved codec that is not finite float32 of its shape."""
    for name, shape in shapes.items():
        value = tensors[name]
        if tuple(value.shape) != shape or value.dtype != torch.float32 or not bool(value.isfinite().all()):
            raise UserError(
                f"the {what}'s {name} is {list(value.shape)} of {value.dtype}, expected finite float32 values "
                f"{list(shape)}: fit it again"
            )
