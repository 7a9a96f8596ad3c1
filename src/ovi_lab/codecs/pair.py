"""A video and an audio codec with their rates and what they were fitted on, in one safetensors file.

Shape suffixes: N clips, T frames, H rows, W columns, C channels, F h w latent frames, rows, columns, S
samples, L tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ovi_eval.common.files import write_whole
from ovi_eval.common.plain_data import parse_json
from ovi_eval.common.shown import shown
from ovi_lab.codecs.base import AudioCodec, VideoCodec, codec_class
from ovi_lab.common.foreign import reading
from ovi_lab.errors import UserError

FORMAT = "ovi_lab.codec/1"
MAX_FPS = 1000


class LatentCodec:
    """Clips to pairs of latents and back.

    Args:
        video, audio: the two codecs.
        fps: frames a second of the clips (with the audio codec's rate it ties the two lengths together).
        fitted_on: the data of the fit, in plain values (a world and its seed, or shards and their
            sha256).
    """

    def __init__(
        self, video: VideoCodec, audio: AudioCodec, fps: float, fitted_on: Mapping[str, Any] | None = None
    ) -> None:
        self.video, self.audio, self.fps = video, audio, float(fps)
        self.fitted_on = dict(fitted_on or {})

    @property
    def sample_rate(self) -> int:
        """Hz of the waves that go in and come out."""
        return self.audio.sample_rate

    def num_samples(self, num_frames: int) -> int:
        """Samples that last as long as that many frames."""
        return round(num_frames * self.sample_rate / self.fps)

    def latent_shapes(self, num_frames: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """The shapes of one clip's latents: {"video": (C,F,h,w), "audio": (L,C)}."""
        t, y, x = self.video.strides
        alone = int(self.video.first_frame_alone)
        tokens = self.num_samples(num_frames) // self.audio.token_samples
        return {
            "video": (self.video.channels, alone + (num_frames - alone) // t, height // y, width // x),
            "audio": (tokens, self.audio.channels),
        }

    def fit(self, clips: Iterable[tuple[Tensor, Tensor]]) -> LatentCodec:
        """Fit both on batches of (uint8 frames [N,T,H,W,3], waves [N,S]), read once and in order."""
        waves: list[Tensor] = []

        def frames() -> Iterable[Tensor]:
            for frames_NTHWC, waves_NS in clips:
                waves.append(waves_NS)
                yield frames_NTHWC

        self.video.fit(frames())
        self.audio.fit(waves)
        return self

    def encode(self, frames_NTHWC: Tensor, waves_NS: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N,T,H,W,3] and waves [N,S] -> float32 latents [N,C,F,h,w] and [N,L,C]."""
        return self.video.encode(frames_NTHWC), self.audio.encode(waves_NS)

    def decode(
        self, video_NCFhw: Tensor, audio_NLC: Tensor, num_samples: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Latents -> uint8 frames [N,T,H,W,3] and float32 waves [N,S], by default as long as the frames."""
        frames_NTHWC = self.video.decode(video_NCFhw)
        samples = self.num_samples(frames_NTHWC.shape[1]) if num_samples is None else num_samples
        return frames_NTHWC, self.audio.decode(audio_NLC, samples)

    def save(self, path: str | Path) -> None:
        """One safetensors file; its metadata hold the format, both configurations and the source."""
        tensors = {f"video.{k}": v.contiguous() for k, v in self.video.tensors().items()}
        tensors |= {f"audio.{k}": v.contiguous() for k, v in self.audio.tensors().items()}
        about = {
            "format": FORMAT,
            "fps": self.fps,
            "video": {"kind": self.video.kind, **self.video.config()},
            "audio": {"kind": self.audio.kind, **self.audio.config()},
            "fitted_on": self.fitted_on,
        }
        # One entry: safetensors writes several in no fixed order, and one codec should be one file.
        metadata = {"codec": json.dumps(about, sort_keys=True)}
        write_whole(Path(path), save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path) -> LatentCodec:
        """The codec that `save` wrote.

        Raises UserError for a file that is absent, broken or of another format.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no codec at {path}; fit one with `ovi-data fit-codec SHARDS {path}`")
        with reading(path, "codec file", "fit it again"):
            with safe_open(path, framework="pt") as file:
                about = parse_json((file.metadata() or {}).get("codec", "{}"), str(path))
                if about.get("format") != FORMAT:
                    raise UserError(
                        f"{path} has the format {shown(repr(about.get('format')))}, expected {FORMAT!r}"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            video, audio, fps = about["video"], about["audio"], float(about["fps"])
            if not 0 < fps <= MAX_FPS:
                raise ValueError(f"fps is {fps}")
            return cls(
                codec_class("video", video["kind"]).from_parts(video, _under("video.", tensors)),
                codec_class("audio", audio["kind"]).from_parts(audio, _under("audio.", tensors)),
                fps,
                about["fitted_on"],
            )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def default_codec(fps: float, sample_rate: int, partials_hz: tuple[float, ...] = ()) -> LatentCodec:
    """An unfitted BlockPCA with 24 channels beside a BandVocoder: for worlds and small packed sets."""
    return LatentCodec(
        codec_class("video", "block_pca")(),
        codec_class("audio", "band_vocoder")(sample_rate=sample_rate, partials_hz=partials_hz),
        fps,
    )
