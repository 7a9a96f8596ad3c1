"""The two protocols of the codecs, and the registry from which saved codecs are rebuilt.

A codec is its configuration (plain values) and its tensors; `from_parts` makes the codec from both, so that
one safetensors file holds a pair of them whatever their kind. A new codec is one file with one decorator.

Shape suffixes: B clips, T frames, H rows, W columns, C channels, F latent frames, h and w latent rows and
columns, S samples, L audio tokens.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor

from ovi_lab.errors import UserError


class VideoCodec(Protocol):
    """Frames to latents and back."""

    kind: str
    channels: int
    strides: tuple[int, int, int]  # frames, rows and columns that become one latent position
    first_frame_alone: (
        bool  # whether the first frame is a latent frame by itself, before groups of strides[0]
    )

    def fit(self, batches_BTHWC: Iterable[Tensor]) -> None:
        """Fit the codec on uint8 frames; the same batches give the same codec."""
        ...

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        """uint8 [B,T,H,W,3] -> float32 [B,C,F,h,w]. Raises UserError for sizes that do not divide."""
        ...

    def decode(self, latents_BCFhw: Tensor) -> Tensor:
        """float [B,C,F,h,w] -> uint8 [B,T,H,W,3]."""
        ...

    def config(self) -> dict[str, Any]: ...

    def tensors(self) -> dict[str, Tensor]: ...

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VideoCodec: ...


class AudioCodec(Protocol):
    """Mono waves to latents and back."""

    kind: str
    channels: int
    sample_rate: int
    token_samples: int  # samples that become one token

    def fit(self, batches_BS: Iterable[Tensor]) -> None:
        """Fit the codec on waves; the same batches give the same codec."""
        ...

    def encode(self, waves_BS: Tensor) -> Tensor:
        """float [B,S] in [-1,1] -> float32 [B,L,C]. Raises UserError for waves shorter than one token."""
        ...

    def decode(self, latents_BLC: Tensor, num_samples: int | None = None) -> Tensor:
        """float [B,L,C] -> float32 [B,S] in [-1,1]; S is `num_samples`, or L tokens' worth."""
        ...

    def config(self) -> dict[str, Any]: ...

    def tensors(self) -> dict[str, Tensor]: ...

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AudioCodec: ...


_VIDEO: dict[str, Any] = {}
_AUDIO: dict[str, Any] = {}
Class = TypeVar("Class", bound=type)


def register_video(kind: str) -> Callable[[Class], Class]:
    """Class decorator: a video codec of that kind."""
    return _register(_VIDEO, kind)


def register_audio(kind: str) -> Callable[[Class], Class]:
    """Class decorator: an audio codec of that kind."""
    return _register(_AUDIO, kind)


def _register(registry: dict[str, Any], kind: str) -> Callable[[Class], Class]:
    def add(cls: Class) -> Class:
        registry[kind] = cls
        cls.kind = kind  # type: ignore[attr-defined]
        return cls

    return add


def video_codec(kind: str) -> Any:
    """The class of video codecs of that kind. Raises UserError naming those there are."""
    return _find(_VIDEO, kind, "video")


def audio_codec(kind: str) -> Any:
    """The class of audio codecs of that kind. Raises UserError naming those there are."""
    return _find(_AUDIO, kind, "audio")


def _find(registry: dict[str, Any], kind: str, what: str) -> Any:
    for module in ("block_pca", "band_vocoder", "wan22", "mmaudio"):
        importlib.import_module(f"ovi_lab.codecs.{module}")
    if kind not in registry:
        raise UserError(f"no {what} codec is called {kind!r}; there is {', '.join(sorted(registry))}")
    return registry[kind]
