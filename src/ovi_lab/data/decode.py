"""Decoding of a sample's bytes to tensors: lossless arrays, any video file FFmpeg reads, or stored latents.

Every way a sample can be bad ends in a BadSampleError with the reason, so that one file cannot stop a run.

Shape suffixes: T frames, H rows, W columns, S samples, C channels, F h w latent frames, rows, columns, L
tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save as save_tensors
from torch import Tensor

from ovi_eval.clips.clip import fit_length, missing_at_end
from ovi_eval.clips.sound import decode_audio
from ovi_eval.common.plain_data import parse_json
from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import parse_caption, unusable
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.cutting import LATE
from ovi_lab.data.index import LATENT_PARTS, LATENTS, BadSampleError, ResamplingRefusedError, bad_sample
from ovi_lab.data.kinds import (
    BOTH,
    FRAMES,
    HEARD_EXTENSIONS,
    SEEN_EXTENSIONS,
    WAVE,
    missing_part,
)
from ovi_lab.data.media_files import DecodedSound, read_picture, read_sound, sound_at
from ovi_lab.data.media_format import MediaFormat
from ovi_lab.data.npy import load_npy, npy_bytes
from ovi_lab.errors import UserError

INT16_SCALE = 32767.0
_FORMS = {"video": (4, "[C,F,h,w]"), "audio": (2, "[L,C]"), "text": (2, "[n,E]")}
_RATES = {"fps": (0.1, 1000.0), "sample_rate": (1000.0, 768_000.0)}
_MOST_CROPPED = 20  # how many times larger than what is kept a scaled frame may be
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

OnResample = Literal["resample", "raise"]


@dataclass
class MediaClip:
    """A decoded clip; `source_rate` is the rate its sound had, `meta` what its shard says of it.

    Where the sound alone was read, there are no frames, and `fps` is 0; where the picture alone was, `wave_S` is empty
    and its rates are 0. `source_fps`: of a file that was decoded, its
    frames a second in the mean.
    """

    caption: str
    frames_THWC: Tensor
    fps: float
    wave_S: Tensor
    sample_rate: int
    source_rate: int
    meta: dict[str, Any]
    source_fps: float | None = None

    @property
    def has_video(self) -> bool:
        """Whether the picture was read."""
        return len(self.frames_THWC) > 0

    @property
    def has_audio(self) -> bool:
        """Whether the sound was read."""
        return len(self.wave_S) > 0

    @property
    def is_still(self) -> bool:
        """Whether it is one frame without sound, whose rate says nothing."""
        return len(self.frames_THWC) == 1 and not self.has_audio


def read_about(members: Mapping[str, bytes]) -> dict[str, Any]:
    """The sample's JSON (or its .txt as the caption): {"caption", "meta", ...}. Raises BadSampleError."""
    try:
        about = parse_json(members["json"], "its .json", constants=True) if "json" in members else {}
        if not isinstance(about, dict):
            raise BadSampleError("its .json is not an object")
        caption, meta = about.get("caption"), about.get("meta", {})
        if caption is None and "txt" in members:
            caption = parse_caption(members["txt"], "its .txt")
    except UserError as error:
        raise BadSampleError(f"its .json or .txt cannot be read ({error})") from error
    if not isinstance(caption, str) or not isinstance(meta, dict):
        raise BadSampleError('its .json has no "caption" in words')
    if reason := unusable(caption):
        raise BadSampleError(f'the "caption" of its .json {reason}')
    return {**about, "caption": caption, "meta": meta}


# Latents


def latent_members(
    caption: str,
    meta: Mapping[str, Any],
    video_CFhw: Tensor | None,
    audio_LC: Tensor | None,
    text_nE: Tensor | None = None,
    encoded_by: Mapping[str, str] | None = None,
    made_of: str = "",
) -> dict[str, bytes]:
    """The members of one sample of latents, of those that are given; `encoded_by` names what made each, `made_of` is
    the digest of all that the shard was made of.
    """
    given = {"video": video_CFhw, "audio": audio_LC, "text": text_nE}
    tensors = {part: tensor.contiguous() for part, tensor in given.items() if tensor is not None}
    about = {"caption": caption, "meta": dict(meta)}
    if encoded_by:
        about["encoded_by"] = {part: encoded_by[part] for part in tensors if part in encoded_by}
    if made_of:
        about["made_of"] = made_of
    return {"json": json_bytes(about), LATENTS: save_tensors(tensors)}


def read_latents(
    members: Mapping[str, bytes],
    parts: Sequence[str] | None = BOTH,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """{"caption", "meta"} and of `parts` (None: all there are) "video" [C,F,h,w], "audio" [L,C], "text" [n,E].

    All in float32, whatever they were stored in; `about` where the sample's JSON has been read already. Raises
    BadSampleError, also for a part that is absent or empty and for NaN.
    """
    about = read_about(members) if about is None else about
    try:
        stored = {part: tensor for part, tensor in deserialize(members[LATENTS]) if part in LATENT_PARTS}
    except SafetensorError as error:
        raise BadSampleError(f"its latents cannot be read ({error})") from error
    sample = {"caption": about["caption"], "meta": about["meta"]}
    for part, (ndim, form) in _FORMS.items():
        if part not in (stored if parts is None else parts):
            continue
        if part not in stored:
            raise BadSampleError(missing_part(part, stored))
        shape, dtype = stored[part]["shape"], stored[part]["dtype"]
        if len(shape) != ndim or 0 in shape:
            raise BadSampleError(f"its {part} latents have the shape {list(shape)}, expected {form}")
        if dtype not in _FLOATS:
            raise BadSampleError(f"its {part} latents are stored as {dtype}, expected {', '.join(_FLOATS)}")
        tensor = torch.frombuffer(stored[part]["data"], dtype=_FLOATS[dtype]).reshape(shape).float()
        if not bool(torch.isfinite(tensor).all()):
            raise BadSampleError(f"its {part} latents hold NaN or infinity")
        sample[part] = tensor
    return sample


# Media


def array_members(
    caption: str,
    meta: Mapping[str, Any],
    frames_THWC: Tensor | None,
    fps: float,
    wave_S: Tensor | None,
    sample_rate: int,
) -> dict[str, bytes]:
    """The members of one lossless sample: uint8 frames and the wave as int16, those that are given."""
    about: dict[str, Any] = {"caption": caption}
    members: dict[str, bytes] = {}
    if frames_THWC is not None:
        about["fps"] = fps
        members[FRAMES] = npy_bytes(frames_THWC.numpy())
    if wave_S is not None:
        about["sample_rate"] = sample_rate
        members[WAVE] = npy_bytes((wave_S.clamp(-1, 1) * INT16_SCALE).round().to(torch.int16).numpy())
    return {"json": json_bytes({**about, "meta": dict(meta)}), **members}


def read_media(
    members: Mapping[str, bytes],
    wanted: MediaFormat | None = None,
    on_resample: OnResample = "resample",
    modalities: Sequence[str] = BOTH,
    fps: float | None = None,
) -> MediaClip:
    """A sample's clip, converted to the format `wanted`; as it is stored where that is None.

    Video files are read by their own timestamps: at the format's rate, else at `fps`, else at a constant rate at which
    no frame is lost. With the modality "audio" alone, only the sound is read, at its own length and rate; with "video"
    alone only the picture, of which a single frame is a still of any length.

    Raises:
        BadSampleError: it cannot be decoded, is too short or lacks the track of a modality.
        UserError: its sound has another rate than the format and `on_resample` is "raise".
    """
    about = read_about(members)
    if "video" not in modalities:
        return _read_sound(members, about)
    heard = "audio" in modalities
    with bad_sample():
        arrays = FRAMES in members
        clip = _read_arrays(members, about, heard) if arrays else _decode(members, about, wanted, fps, heard)
        return clip if wanted is None else conform(clip, wanted, on_resample)


def _read_sound(members: Mapping[str, bytes], about: Mapping[str, Any]) -> MediaClip:
    no_frames = torch.empty(0, 0, 0, 3, dtype=torch.uint8)
    if WAVE in members:
        wave_S, rate = _read_wave(members, about)
    else:
        with bad_sample():
            audio = decode_audio(_first(members, HEARD_EXTENSIONS), name="its sound")
        wave_S, rate = audio.wave_S, audio.sample_rate
    return MediaClip(about["caption"], no_frames, 0.0, wave_S, rate, rate, dict(about["meta"]))


def _first(members: Mapping[str, bytes], extensions: Sequence[str]) -> bytes:
    return next(members[extension] for extension in extensions if extension in members)


def _decode(
    members: Mapping[str, bytes],
    about: Mapping[str, Any],
    wanted: MediaFormat | None,
    fps: float | None,
    heard: bool,
) -> MediaClip:
    """A video file (and where it is `heard` its sound, or that of a sound file beside it), decoded no further than the
    format needs.

    Raises UserError where it cannot be decoded.
    """
    fit = None if wanted is None else lambda frame_HWC: fit_frame(frame_HWC, wanted.height, wanted.width)
    picture = read_picture(
        _first(members, SEEN_EXTENSIONS),
        "its video",
        fps if wanted is None else wanted.fps,
        None if wanted is None else wanted.num_frames,
        fit,
    )
    frames_THWC, fps = picture.frames_THWC, picture.fps
    seconds = len(frames_THWC) / fps
    if not heard:
        return MediaClip(
            about["caption"], frames_THWC, fps, torch.zeros(0), 0, 0, dict(about["meta"]), picture.source_fps
        )
    sound = read_sound(_first(members, HEARD_EXTENSIONS), "its sound", seconds, picture.start)
    wave_S, rate = sound.wave_S, sound.sample_rate
    missing_at_end(picture.start + len(wave_S) / rate, picture.start, seconds, "its sound")
    if wanted is None:  # else the resampler reads past the end
        wave_S = fit_length(wave_S, round(seconds * rate))
    return MediaClip(
        about["caption"], frames_THWC, fps, wave_S, rate, rate, dict(about["meta"]), picture.source_fps
    )


def conform(clip: MediaClip, wanted: MediaFormat, on_resample: OnResample) -> MediaClip:
    """Convert a decoded clip of evenly spaced frames to the format `wanted`. Raises as `read_media`."""
    frames_THWC, wave_S = clip.frames_THWC, clip.wave_S
    other_length = abs(clip.fps - wanted.fps) > 1e-6 * wanted.fps or len(frames_THWC) != wanted.num_frames
    if other_length and not clip.is_still:
        frames_THWC = retime(frames_THWC, clip.fps, wanted)
    if tuple(frames_THWC.shape[1:3]) != (wanted.height, wanted.width):
        frames_THWC = torch.stack([fit_frame(frame, wanted.height, wanted.width) for frame in frames_THWC])
    if not clip.has_audio:
        return replace(clip, frames_THWC=frames_THWC, fps=wanted.fps)
    if clip.sample_rate != wanted.sample_rate:
        refuse_other_rate(clip.sample_rate, wanted.sample_rate, on_resample)
    wave_S = sound_at(DecodedSound(wave_S, clip.sample_rate), wanted.sample_rate, wanted.num_samples)
    return replace(
        clip, frames_THWC=frames_THWC, fps=wanted.fps, wave_S=wave_S, sample_rate=wanted.sample_rate
    )


def decoded_clips(samples: Sequence[Mapping[str, Any]], codec: LatentCodec) -> list[MediaClip]:
    """Samples of latents of one shape, decoded to clips."""
    frames_NTHWC, waves_NS = codec.decode(
        torch.stack([sample["video"] for sample in samples]),
        torch.stack([sample["audio"] for sample in samples]),
    )
    rate = codec.sample_rate
    return [
        MediaClip(sample["caption"], frames_THWC, codec.fps, wave_S, rate, rate, sample["meta"])
        for sample, frames_THWC, wave_S in zip(samples, frames_NTHWC, waves_NS, strict=True)
    ]


def refuse_other_rate(rate: int, wanted: int, on_resample: OnResample) -> None:
    """Raises ResamplingRefusedError naming both rates where resampling is not allowed."""
    if on_resample == "raise":
        raise ResamplingRefusedError(
            f"audio has {rate} Hz, this codec takes {wanted}; pass on_resample=resample, "
            f"or pack the clips at {wanted} Hz"
        )


def retime(frames_THWC: Tensor, fps: float, wanted: MediaFormat) -> Tensor:
    """The evenly spaced frames, retimed to the rate of `wanted`. Raises BadSampleError where they end too early."""
    seconds = len(frames_THWC) / fps
    # Half a frame of either rate may be missing: containers round times.
    if seconds < wanted.seconds - 0.5 / min(fps, wanted.fps):
        raise BadSampleError(f"it lasts {seconds:.2f} s, {wanted.seconds:.2f} s are wanted")
    times_T = torch.arange(len(frames_THWC), dtype=torch.float64) / fps
    moments = torch.arange(wanted.num_frames, dtype=torch.float64) / wanted.fps
    seen = torch.searchsorted(times_T, moments + LATE, right=True) - 1
    return frames_THWC[seen.clamp(0, len(frames_THWC) - 1)]


def fit_frame(frame_HWC: Tensor, height: int, width: int) -> Tensor:
    """uint8 [H,W,3] scaled (antialiased) until it covers height x width, then cropped at the centre.

    Raises BadSampleError for a frame of such another shape that cropping would leave hardly any of it.
    """
    rows, columns = frame_HWC.shape[:2]
    if (rows, columns) == (height, width):
        return frame_HWC
    if max(rows * width, columns * height) > _MOST_CROPPED * min(rows * width, columns * height):
        raise BadSampleError(
            f"its picture of {rows}x{columns} is of too different a shape for {height}x{width}"
        )
    scale = max(height / rows, width / columns)
    size = (max(height, round(rows * scale)), max(width, round(columns * scale)))
    frame_1CHW = frame_HWC.permute(2, 0, 1)[None].float()
    frame_1CHW = torch.nn.functional.interpolate(frame_1CHW, size, mode="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    cut = frame_1CHW[0, :, top : top + height, left : left + width].round().clamp(0, 255)
    return cut.permute(1, 2, 0).to(torch.uint8).contiguous()


def _read_arrays(members: Mapping[str, bytes], about: Mapping[str, Any], heard: bool) -> MediaClip:
    frames = load_npy(members[FRAMES], FRAMES)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise BadSampleError(
            f"its .{FRAMES} holds {frames.dtype} {list(frames.shape)}, expected uint8 [T,H,W,3]"
        )
    wave_S, rate = _read_wave(members, about) if heard else (torch.zeros(0), 0)
    fps = _rate(about, "fps")
    samples = round(len(frames) / fps * rate)
    if heard and len(wave_S) != samples:
        missing_at_end(len(wave_S) / rate, 0.0, len(frames) / fps, "its sound")
        wave_S = fit_length(wave_S, samples)
    return MediaClip(about["caption"], torch.from_numpy(frames), fps, wave_S, rate, rate, dict(about["meta"]))


def _read_wave(members: Mapping[str, bytes], about: Mapping[str, Any]) -> tuple[Tensor, int]:
    wave = load_npy(members[WAVE], WAVE)
    if wave.ndim != 1 or not wave.size or wave.dtype not in (np.int16, np.float32):
        raise BadSampleError(
            f"its .{WAVE} holds {wave.dtype} {list(wave.shape)}, expected int16 or float32 [S]"
        )
    wave_S = torch.from_numpy(wave.astype(np.float32) / (INT16_SCALE if wave.dtype == np.int16 else 1.0))
    if not bool(torch.isfinite(wave_S).all()):
        raise BadSampleError(f"its .{WAVE} holds NaN or infinity")
    return wave_S, int(_rate(about, "sample_rate"))


def _rate(about: Mapping[str, Any], name: str) -> float:
    value, (low, high) = about.get(name), _RATES[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadSampleError(f'its .json lacks "{name}" in numbers')
    if not low <= value <= high:
        raise BadSampleError(
            f"its .json gives {shown(value, 20)} as {name}: it must be from {low:g} to {high:g}"
        )
    return float(value)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """A member `.json`."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a character in what is known of a foreign clip
        return json.dumps(value).encode()
