"""Sampling a run of one's own: its checkpoint as model, text encoder and codec, and clips from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.configuration import Configuration, check_model
from ovi_lab.checkpoints.names import finite
from ovi_lab.checkpoints.reading import model_weights
from ovi_lab.codecs import LatentCodec
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES
from ovi_lab.text import LearnedText, UMT5Text

RELEASED_ONLY = ("weights", "aspect", "image", "prompts")
MAX_PIXELS, MAX_SAMPLES = 2**31, 2**28
"""In a clip; the released models' largest has 2.2e8 pixels in 241 frames and 1.6e5 samples."""


class Loaded(NamedTuple):
    """A checkpoint of a run, ready to sample."""

    model: TwinDiT
    text: LearnedText | UMT5Text
    codec: LatentCodec
    latent_shapes: Mapping[str, tuple[int, ...]]
    """Of one clip as the model was trained on: video (C,F,h,w) and audio (L,C)."""


def load_model(
    path: str | Path, ema: bool = True, device: str = "cpu", text_files: Mapping[str, Any] | None = None
) -> Loaded:
    """Model, text encoder and codec of a checkpoint.

    They are built from plain settings; nothing that the checkpoint names is run, and no path in it is followed.

    Args:
        path: a run, its `last`, or a checkpoint folder.
        ema: averaged weights, where the checkpoint has them.
        device: where the model goes.
        text_files: `weights` and `tokenizer` of a run that was trained with umT5: what its checkpoint lacks.

    Raises:
        UserError: no checkpoint there, it lacks what sampling needs, or its parts contradict each other.
    """
    checkpoint = Checkpoint.open(resolve_checkpoint(path))
    config = checkpoint.configuration()
    for part in ("model", "text_encoder", "codec"):
        if not checkpoint.has(f"{part}.safetensors"):
            raise UserError(
                f"checkpoint {checkpoint.path} has no {part}.safetensors: it cannot be sampled by itself"
            )
    averaged = ema and checkpoint.has("ema/model.safetensors")
    source = str(checkpoint.path)
    stored = model_weights(checkpoint, ema=averaged)
    settings = config.model()
    for tower in MODALITIES:
        if not any(name.startswith(f"{tower}_model.") for name in stored.tensors):
            settings[tower], settings["fusion"] = None, {"direction": "none"}
    check_model(settings, stored.tensors, source)
    text = _text_encoder(checkpoint, config, averaged, text_files or {})
    model = TwinDiT(**settings)
    model.load_state_dict({name: finite(name, tensor, source) for name, tensor in stored.stream()})
    codec = LatentCodec.load(checkpoint.file("codec.safetensors"))
    shapes = config.latent_shapes()
    if shapes is None:
        raise UserError(
            f"checkpoint {source} does not tell its latent_shapes: it cannot be sampled by itself"
        )
    for modality, tower_config in model.tower_configs.items():
        channels = shapes[modality][-1 if modality == "audio" else 0] if modality in shapes else None
        if not channels == tower_config.in_dim == getattr(codec, modality).channels:
            raise UserError(
                f"checkpoint {source} contradicts itself: its {modality} latents have {channels} channels, its model "
                f"takes {tower_config.in_dim} and its codec makes {getattr(codec, modality).channels}"
            )
    return Loaded(model.to(device).eval(), text.to(device).eval(), codec, shapes)


def _text_encoder(
    checkpoint: Checkpoint, config: Configuration, averaged: bool, files: Mapping[str, Any]
) -> LearnedText | UMT5Text:
    cls, settings = config.text_encoder()
    stored = checkpoint.stored("text_encoder", ema=averaged)
    shapes = {name: tensor.shape for name, tensor in stored.tensors.items()}
    if cls is UMT5Text:
        if not files.get("weights") or not files.get("tokenizer"):
            raise UserError(
                f"checkpoint {checkpoint.path} was trained with umT5, whose files it does not hold: name them, "
                "text.weights=FILE text.tokenizer=FOLDER"
            )
        settings |= {"weights": files["weights"], "tokenizer": files["tokenizer"]}
        wanted: dict[str, tuple[int, ...]] = {"fingerprint": (4,)}
    else:
        defaults = {"rows": 4096, "max_words": 16} | settings
        wanted = {
            "words": (defaults["rows"], defaults["dim"]),
            "positions": (defaults["max_words"], defaults["dim"]),
        }
    if shapes != wanted:
        raise UserError(
            f"checkpoint {checkpoint.path} contradicts itself: its text encoder holds {shown(shapes)}, its "
            f"configuration says {wanted}"
        )
    text = cls(**settings)
    source = str(checkpoint.path)
    text.load_state_dict({name: finite(name, tensor, source) for name, tensor in stored.stream()})
    return text


def sample_clips(config: DictConfig) -> list[Path]:
    """Write the clips that the configuration asks for, from a run of our own; returns their paths."""
    from ovi_eval.clips.writing import write_mp4
    from ovi_eval.common.unicode_text import unusable
    from ovi_lab.common.progress import ConsoleReporter
    from ovi_lab.flow import SamplerSettings
    from ovi_lab.flow.generate import generate_latents
    from ovi_lab.sampling.device import usable_device
    from ovi_lab.text.lengths import CutTexts

    if config.count < 1:
        raise UserError(f"count is {config.count}, expected at least 1")
    for name in RELEASED_ONLY:
        if config[name] is not None:
            raise UserError(
                f"{name}= is for released models, and {config.checkpoint} is none of them: leave it out"
            )
    if why := unusable(str(config.prompt)):
        raise UserError(f"the prompt {why}: write it in UTF-8")
    side = 256 if config.size is None else config.size
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise UserError(f"size is {side!r}: expected the longer side of the clips in pixels")
    device = usable_device("cpu" if config.device == "auto" else config.device)
    loaded = load_model(config.checkpoint, config.ema, device, config.text)
    model, text, codec = loaded.model, loaded.text, loaded.codec
    text.fit = CutTexts(text.fit.limit, text.fit.count, config.long_prompts, "long_prompts=")
    model.set_audio_rope_factor(config.rope_factor)
    shapes = scaled_shapes(loaded.latent_shapes, config.length)
    _check_size(shapes, codec, config.checkpoint)
    shapes = {m: s for m, s in shapes.items() if m in model.tower_configs}
    reporter = ConsoleReporter()
    try:
        video, audio = generate_latents(
            model,
            text,
            [config.prompt] * config.count,
            seeds=[config.seed + i for i in range(config.count)],
            shapes=shapes,
            settings=SamplerSettings(**config.sampler),
            on_step=lambda done, total: reporter.at("sampling", done, total),
        )
    finally:
        reporter.close()
    frames, waves = decode_present(codec, video, audio)
    name = re.sub(r"\W+", "_", config.prompt.lower()).strip("_")[:60] or "clip"
    paths = []
    for i in range(config.count):
        path = Path(config.out) / f"{name}_seed{config.seed + i}.mp4"
        paths.append(write_mp4(path, frames[i], codec.fps, waves[i], codec.sample_rate, enlarge_to=side))
    return paths


def _check_size(shapes: Mapping[str, tuple[int, ...]], codec: LatentCodec, source: str) -> None:
    """Raises UserError for latents that decode to more than any clip is."""
    (_, *positions), (tokens, _) = shapes["video"], shapes["audio"]
    pixels = math.prod(n * stride for n, stride in zip(positions, codec.video.strides, strict=True))
    samples = tokens * codec.audio.token_samples
    if pixels > MAX_PIXELS or samples > MAX_SAMPLES:
        raise UserError(
            f"clips of {source} would have {pixels} pixels in all frames and {samples} samples: more than any clip "
            f"(at most {MAX_PIXELS} and {MAX_SAMPLES})"
        )


def decode_present(codec: Any, video: Tensor | None, audio: Tensor | None) -> tuple[Tensor, Tensor]:
    """Frames and waves; where a modality was not sampled, black frames or silence of the other's length."""
    if video is not None and audio is not None:
        frames, waves = codec.decode(video, audio)
    elif video is not None:
        frames = codec.video.decode(video)
        waves = torch.zeros(len(frames), codec.num_samples(frames.shape[1]))
    elif audio is not None:
        waves = codec.audio.decode(audio)
        count = max(1, round(waves.shape[1] * codec.fps / codec.sample_rate))
        frames = torch.zeros(len(waves), count, 16, 16, 3, dtype=torch.uint8)
    else:
        raise UserError("nothing was sampled: the task trains neither video nor audio")
    return frames, waves


def scaled_shapes(shapes: Mapping[str, Sequence[int]], length: float) -> dict[str, tuple[int, ...]]:
    """Latent shapes of clips `length` times as long, both modalities cut to the same duration."""
    C, F, h, w = shapes["video"]
    L, D = shapes["audio"]
    frames = round(F * length)
    if frames < 1:
        raise UserError(f"evaluation.length is {length}: no video frame is left")
    return {"video": (C, frames, h, w), "audio": (round(L * frames / F), D)}
