"""The encoders of clips and captions into stored latents and embeddings, and their names.

A name is the kind and the sha256 of the weights ("wan22 sha256:…"): samples carry it, so that latents of two encoders
are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_eval.common.files import file_sha256
from ovi_lab.codecs import AudioCodec, LatentCodec, VideoCodec
from ovi_lab.data.decode import BOTH
from ovi_lab.errors import UserError

PUBLISHED = "ovi_720x720_5s"
"""The preset whose encoders are taken where the folder of weights has none: all released models share them."""


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


def published_encoders(
    weights: Path, audio_only: bool = False, device: torch.device | str = "cpu"
) -> Encoders:
    """The encoders of the released models: the Wan2.2 VAE and MMAudio's VAE, from a folder in their layout.

    The vocoder is not needed and not looked for.

    Raises:
        UserError: a file is missing, damaged, or another model.
    """
    from ovi_lab.checkpoints.digests import Digests
    from ovi_lab.checkpoints.weights_layout import place
    from ovi_lab.codecs import mmaudio, wan22

    preset = _preset(weights)
    parts = ["audio_vae", *([] if audio_only else ["video_vae"])]
    _refuse_faults(weights, parts)
    files = {part: place(weights, part, preset) for part in parts}
    digests = Digests({part: path for part, path in files.items() if path is not None})
    sizes = mmaudio.MMAudioConfig.of(preset.audio_codec)
    vae = mmaudio.load_vae(_there(files["audio_vae"]), sizes, torch.float32, device)
    # without weights: what turns latents into sound is never run here
    audio = mmaudio.MMAudioCodec(vae, mmaudio.build_vocoder(sizes), sizes)
    video = None
    if not audio_only:
        video = wan22.Wan22VAE.from_file(
            _there(files["video_vae"]), preset.video_codec, torch.float32, device
        )
    found = digests.result()
    names = {"audio": f"{audio.kind} sha256:{found['audio_vae']}"}
    if video is not None:
        names["video"] = f"{video.kind} sha256:{found['video_vae']}"
    settings = {"audio_codec": dict(preset.audio_codec)}
    if video is not None:
        settings["video_codec"] = dict(preset.video_codec)
    return Encoders(preset.fps, preset.sample_rate, audio, video, names=names, settings=settings)


def with_published_text(
    encoders: Encoders, weights: Path, device: torch.device | str = "cpu", long_captions: str = "refuse"
) -> Encoders:
    """The encoders with umT5 added, from a folder in the released layout.

    `long_captions`: how captions of more tokens than it reads are handled, see `ovi_lab.text.lengths`. Raises
    UserError as `published_encoders`.
    """
    from ovi_lab.checkpoints.digests import Digests
    from ovi_lab.checkpoints.weights_layout import place
    from ovi_lab.text import UMT5Text

    preset = _preset(weights)
    _refuse_faults(weights, ["text_encoder", "tokenizer"])
    file = _there(place(weights, "text_encoder", preset))
    digests = Digests({"text": file})
    tokenizer = _there(place(weights, "tokenizer", preset))
    text = UMT5Text(
        file,
        tokenizer,
        configuration=preset.text_encoder,
        too_long=long_captions,
        option="--long-captions ",
    ).to(device)
    names = {**encoders.names, "text": f"umt5 sha256:{digests.result()['text']}"}
    settings = {
        **encoders.settings,
        "text_encoder": dict(preset.text_encoder),
        "long_captions": long_captions,
        "tokenizer": {file.name: file_sha256(file) for file in sorted(tokenizer.iterdir()) if file.is_file()},
    }
    return replace(encoders, text=text.eval(), names=names, settings=settings)


def _preset(weights: Path):  # type: ignore[no-untyped-def]
    from ovi_lab.checkpoints.presets import PRESET_FILE, released_model

    return released_model(weights if (weights / PRESET_FILE).is_file() else PUBLISHED)


def _refuse_faults(weights: Path, parts: Sequence[str]) -> None:
    from ovi_lab.checkpoints.weights_layout import fault

    if not weights.is_dir():
        raise UserError(
            f"--weights {weights} is no folder: name the one that holds Wan2.2-TI2V-5B and MMAudio"
        )
    wrong = [line for part in parts if (line := fault(weights, part, _preset(weights)))]
    if wrong:
        raise UserError("; ".join(wrong))


def _there(path: Path | None) -> Path:
    assert path is not None  # _refuse_faults has seen it
    return path
