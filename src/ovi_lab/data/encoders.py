"""The encoders of clips and captions into stored latents and embeddings, and their names.

A name is the kind and the sha256 of the weights ("wan22 sha256:…"): samples carry it, so that latents of two encoders
are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovi_eval.common.files import file_sha256
from ovi_lab.checkpoints.digests import Digests
from ovi_lab.checkpoints.published_codecs import load_codecs, sizes_in
from ovi_lab.checkpoints.weights_layout import find_parts
from ovi_lab.codecs import AudioCodec, LatentCodec, VideoCodec
from ovi_lab.data.kinds import BOTH

if TYPE_CHECKING:
    from ovi_lab.text import UMT5Text


@dataclass(frozen=True)
class Encoders:
    """Encoders of video, audio and text.

    Args:
        fps, sample_rate: of the clips that they take, in 1/s and Hz.
        audio: mono waves to latents.
        video: frames to latents; None: sound alone.
        text: captions to embeddings [n,E]; None: none are stored.
        names: the name of the weights, by part.
        settings: all else that decides the latents, in plain values.
    """

    fps: float
    sample_rate: int
    audio: AudioCodec
    video: VideoCodec | None = None
    text: Callable[[Sequence[str]], list[Tensor]] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that a clip must have."""
        return BOTH if self.video is not None else ("audio",)


def saved_encoders(codec: Path, audio_only: bool = False) -> Encoders:
    """The encoders of a saved `LatentCodec`. Raises UserError as its `load`."""
    pair = LatentCodec.load(codec)
    digest = file_sha256(codec)
    names = {"video": f"{pair.video.kind} sha256:{digest}", "audio": f"{pair.audio.kind} sha256:{digest}"}
    if audio_only:
        del names["video"]
    return Encoders(pair.fps, pair.sample_rate, pair.audio, None if audio_only else pair.video, names=names)


def codec_digests(codec: Path) -> dict[str, str]:
    """The sha256 of the weights of both codecs, of a saved codec or a folder of released weights; {} for neither."""
    if codec.is_file():
        return dict.fromkeys(BOTH, file_sha256(codec))
    if not codec.is_dir():
        return {}
    files = find_parts(codec, sizes_in(codec), ("video_vae", "audio_vae"))
    found = Digests(files).result()
    return {"video": found["video_vae"], "audio": found["audio_vae"]}


def published_codec(weights: Path, device: torch.device | str = "cpu") -> LatentCodec:
    """The codecs of a folder of released weights, to decode samples with.

    Raises:
        UserError: a file is missing, damaged, or another model.
    """
    preset = sizes_in(weights)
    files = find_parts(weights, preset, ("video_vae", "audio_vae", "vocoder"))
    return LatentCodec(*load_codecs(preset, files, torch.float32, device), preset.fps)


def published_encoders(
    weights: Path, audio_only: bool = False, device: torch.device | str = "cpu"
) -> Encoders:
    """The encoders of the released models: the Wan2.2 VAE and MMAudio's VAE, from a folder in their layout.

    The vocoder is not needed and not looked for.

    Raises:
        UserError: a file is missing, damaged, or another model.
    """
    from ovi_lab.codecs import mmaudio, wan22

    preset = sizes_in(weights)
    files = find_parts(weights, preset, ["audio_vae"] if audio_only else ["audio_vae", "video_vae"])
    digests = Digests(files)
    sizes = mmaudio.MMAudioConfig.of(preset.audio_codec)
    vae = mmaudio.load_vae(files["audio_vae"], sizes, torch.float32, device)
    # without weights: what turns latents into sound is never run here
    audio = mmaudio.MMAudioCodec(vae, mmaudio.build_vocoder(sizes), sizes)
    names = {"audio": f"{audio.kind} sha256:{digests.result()['audio_vae']}"}
    settings = {"audio_codec": dict(preset.audio_codec)}
    if audio_only:
        return Encoders(preset.fps, preset.sample_rate, audio, names=names, settings=settings)
    video = wan22.Wan22VAE.from_file(files["video_vae"], preset.video_codec, torch.float32, device)
    names["video"] = f"{video.kind} sha256:{digests.result()['video_vae']}"
    settings["video_codec"] = dict(preset.video_codec)
    return Encoders(preset.fps, preset.sample_rate, audio, video, names=names, settings=settings)


def with_published_text(
    encoders: Encoders, weights: Path, device: torch.device | str = "cpu", long_captions: str = "refuse"
) -> Encoders:
    """The encoders with umT5 added, from a folder in the released layout.

    `long_captions`: how captions of more tokens than it reads are handled, see `ovi_lab.text.lengths`. Raises
    UserError as `published_encoders`.
    """
    text, name, settings = published_text(weights, device, long_captions)
    return replace(
        encoders,
        text=text,
        names={**encoders.names, "text": name},
        settings={**encoders.settings, **settings},
    )


def published_text(
    weights: Path, device: torch.device | str = "cpu", long_captions: str = "refuse"
) -> tuple[UMT5Text, str, dict[str, Any]]:
    """umT5 from a folder in the released layout; arguments and errors as `with_published_text`.

    Returns:
        The encoder, its name with the digest of its weights, and all else that decides its vectors, in plain values.
    """
    from ovi_lab.text import UMT5Text

    preset = sizes_in(weights)
    files = find_parts(weights, preset, ["text_encoder", "tokenizer"])
    file, tokenizer = files["text_encoder"], files["tokenizer"]
    digests = Digests({"text": file})
    text = UMT5Text(
        file,
        tokenizer,
        configuration=preset.text_encoder,
        too_long=long_captions,
        option="--long-captions ",
    ).to(device)
    settings = {
        "text_encoder": dict(preset.text_encoder),
        "long_captions": long_captions,
        "tokenizer": {file.name: file_sha256(file) for file in sorted(tokenizer.iterdir()) if file.is_file()},
    }
    return text.eval(), f"umt5 sha256:{digests.result()['text']}", settings
