"""Opening a bundle: a released model, or the checkpoint of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ovi_eval.common.shown import shown
from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.configuration import Configuration, check_model
from ovi_lab.checkpoints.digests import Digests
from ovi_lab.checkpoints.opening import model_weights
from ovi_lab.checkpoints.presets import (
    PRESET_FILE,
    ReleasedModel,
    is_released,
    load_towers,
    released_model,
)
from ovi_lab.checkpoints.weights_layout import find_layout, find_parts
from ovi_lab.codecs import LatentCodec
from ovi_lab.codecs.mmaudio import MMAudioCodec, MMAudioConfig
from ovi_lab.codecs.wan22 import Wan22Config, Wan22VAE
from ovi_lab.common.fields import Positive, checked
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES
from ovi_lab.sampling.bundle import (
    OPTION,
    Bundle,
    Formats,
    lengthened,
    published_codecs,
    released_bundle,
    scaled_shapes,
    token_check,
)
from ovi_lab.text import LearnedText, UMT5Text
from ovi_lab.text.learned import word_count
from ovi_lab.text.lengths import CutTexts
from ovi_lab.text.umt5 import MAX_TOKENS
from ovi_lab.weights.fit import finite

PUBLISHED = "ovi_960x960_10s"
"""The preset whose text encoder and codecs are the published ones."""


def open_bundle(
    checkpoint: str | Path,
    weights: str | Path | None = None,
    *,
    ema: bool = True,
    text_files: Mapping[str, Any] | None = None,
    length: float = 1.0,
    rope_factor: float | None = None,
) -> Bundle:
    """The model that `checkpoint=` names.

    Args:
        checkpoint: a released model's name, a folder with a preset.yaml; a run, its `last`, or a checkpoint folder.
        weights: folder of released weights; of a run, where what its checkpoint does not hold is taken from.
        ema: averaged weights, where a checkpoint has them.
        text_files: `weights` and `tokenizer` of a run that was trained with umT5, instead of those in `weights`.
        length: clips so many times as long as those trained on.
        rope_factor: another audio RoPE factor than the model was trained with.

    Raises:
        UserError: there is no such model, a part is missing or damaged, or parts contradict each other.
    """
    if is_released(checkpoint):
        if any(value is not None for value in (text_files or {}).values()):
            raise UserError(
                "text.weights= and text.tokenizer= are for runs trained with umT5: leave them out"
            )
        preset = lengthened(released_model(checkpoint), length)
        bundle = released_bundle(preset, find_layout(weights_folder(checkpoint, weights, preset), preset))
    else:
        bundle = run_bundle(checkpoint, weights, ema, text_files or {}, length)
    bundle.formats.check_size()
    if rope_factor is None:
        return bundle
    checked(Positive, rope_factor, "rope_factor")

    def towers(dtype: torch.dtype, device: Any) -> TwinDiT:
        model = bundle.load_towers(dtype, device)
        model.set_audio_rope_factor(rope_factor)
        return model

    facts = {**bundle.formats.facts, "rope_factor": rope_factor}
    return replace(bundle, formats=replace(bundle.formats, facts=facts), load_towers=towers)


def weights_folder(checkpoint: str | Path, weights: str | Path | None, preset: ReleasedModel) -> Path:
    """The folder of all weights: `weights=`, or the folder whose preset `checkpoint=` names.

    Raises:
        UserError: it is not given, and the preset lies in no such folder.
    """
    if weights is not None:
        return Path(weights)
    folder = Path(checkpoint)
    folder = folder.parent if folder.name == PRESET_FILE else folder
    if (folder / PRESET_FILE).is_file():
        return folder
    raise UserError(
        f"weights= is not given: name the folder with {preset.file}, Wan2.2-TI2V-5B and MMAudio below it"
    )


# ------------------------------------------------------------------------------------------------ a run of ours
def run_bundle(
    path: str | Path,
    weights: str | Path | None = None,
    ema: bool = True,
    text_files: Mapping[str, Any] | None = None,
    length: float = 1.0,
) -> Bundle:
    """A run's checkpoint; see `open_bundle`.

    It is opened by plain settings; nothing that the checkpoint names is run, and no path in it is followed.
    """
    checkpoint = Checkpoint.open(resolve_checkpoint(path))
    config, source = checkpoint.configuration(), str(checkpoint.path)
    if not checkpoint.has("model.safetensors"):
        raise UserError(f"checkpoint {source} has no model.safetensors: it cannot be sampled by itself")
    own = checkpoint.has("codec.safetensors")
    if not own and weights is None:
        raise UserError(
            f"checkpoint {source} has no codec.safetensors: it cannot be sampled by itself; weights=FOLDER names the "
            "published codecs and umT5, in Wan2.2-TI2V-5B and MMAudio below it"
        )
    averaged = ema and checkpoint.has("ema/model.safetensors")
    stored = model_weights(checkpoint, ema=averaged)
    settings = config.model()
    for tower in MODALITIES:
        if not any(name.startswith(f"{tower}_model.") for name in stored.tensors):
            settings[tower], settings["fusion"] = None, {"direction": "none"}
    check_model(settings, stored.tensors, source)
    present = [m for m in MODALITIES if settings[m] is not None]
    published = _published_preset(weights)
    codec = LatentCodec.load(checkpoint.file("codec.safetensors")) if own else None
    shapes = _checked_shapes(config, settings, present, codec, published, source)
    shapes = {m: s for m, s in scaled_shapes(shapes, length, "length").items() if m in present}
    facts = {"ema": averaged}
    names = [n for n in checkpoint.files if n.endswith(".safetensors") and (n.startswith("ema/") <= averaged)]
    digests = {name: checkpoint.files[name]["sha256"] for name in sorted(names)}
    size = sum(checkpoint.files[name]["size"] for name in names)
    layers = settings[present[0]]["num_layers"]
    name = str(config.plain.get("name") or checkpoint.path.name)

    def towers(dtype: torch.dtype, device: Any) -> TwinDiT:
        return load_towers(model_weights(checkpoint, ema=averaged), settings, source, dtype, device)

    load_text, length_check = _run_text(checkpoint, config, averaged, text_files or {}, weights, published)
    if codec is not None:
        fixed = Formats(
            name, shapes, codec.fps, codec.sample_rate, codec.video.strides, codec.video.first_frame_alone,
            codec.audio.token_samples, facts=facts,
        )  # fmt: skip
        both = codec.video, codec.audio
        return Bundle(
            fixed, layers, load_text, towers, lambda *_: both, length_check, lambda: lambda: digests, size
        )
    files = find_parts(str(weights), published, ("video_vae", "audio_vae", "vocoder"))
    published_files = {f"weights/{part}/{file.name}": file for part, file in files.items()}
    _, frames, h, w = shapes.get("video", (0, 1, 1, 1))
    area = 16 * h, 16 * w
    formats = Formats(
        name, shapes, published.fps, published.sample_rate, Wan22VAE.strides, Wan22VAE.first_frame_alone,
        MMAudioCodec.token_samples, area, noise="reference", facts=facts,
    )  # fmt: skip
    preset = None
    if len(present) == len(MODALITIES):
        preset = replace(
            published, name=name, model=settings, video_latent_frames=frames,
            audio_latents=shapes["audio"][0], area=area,
        )  # fmt: skip

    def all_digests() -> Callable[[], Mapping[str, str]]:
        hashed = Digests(published_files)
        return lambda: digests | hashed.result()

    codecs = partial(published_codecs, published, files)
    size += sum(file.stat().st_size for file in files.values())
    return Bundle(formats, layers, load_text, towers, codecs, length_check, all_digests, size, preset)


def _published_preset(weights: str | Path | None) -> ReleasedModel:
    """The sizes of the codecs and umT5 in a folder: those of its own preset.yaml, else the published ones."""
    if weights is not None and not Path(weights).is_dir():
        raise UserError(f"weights={weights} is no folder: name the one that holds Wan2.2-TI2V-5B and MMAudio")
    brings = weights is not None and (Path(weights) / PRESET_FILE).is_file()
    return released_model(str(weights) if brings else PUBLISHED)


def _checked_shapes(
    config: Configuration,
    settings: Mapping[str, Any],
    present: Sequence[str],
    codec: LatentCodec | None,
    published: ReleasedModel,
    source: str,
) -> dict[str, tuple[int, ...]]:
    shapes = config.latent_shapes()
    if shapes is None:
        raise UserError(
            f"checkpoint {source} does not tell its latent_shapes: it cannot be sampled by itself"
        )
    if codec is not None:
        widths = {"video": codec.video.channels, "audio": codec.audio.channels}
    else:
        widths = {
            "video": Wan22Config.of(published.video_codec).channels,
            "audio": MMAudioConfig.of(published.audio_codec).channels,
        }
    for modality in present:
        channels = shapes[modality][-1 if modality == "audio" else 0] if modality in shapes else None
        if not channels == settings[modality]["in_dim"] == widths[modality]:
            raise UserError(
                f"checkpoint {source} contradicts itself: its {modality} latents have {channels} channels, its model "
                f"takes {settings[modality]['in_dim']} and its codec makes {widths[modality]}"
            )
    return shapes


def _run_text(
    checkpoint: Checkpoint,
    config: Configuration,
    averaged: bool,
    files: Mapping[str, Any],
    weights: str | Path | None,
    published: ReleasedModel,
) -> tuple[Callable[[Any, Any, str | None], nn.Module], Callable[[str], CutTexts]]:
    """The loader of a run's text encoder, and the check of texts' lengths.

    A run on stored embeddings has no encoder of its own: they were made by the published umT5.
    """
    source = str(checkpoint.path)
    cls: type[LearnedText] | type[UMT5Text] = UMT5Text
    settings: dict[str, Any] = {}
    stored = None
    if config.plain.get("text") is not None:
        cls, settings = config.text_encoder()
        if not checkpoint.has("text_encoder.safetensors"):
            raise UserError(
                f"checkpoint {source} has no text_encoder.safetensors: it cannot be sampled by itself"
            )
        stored = checkpoint.stored("text_encoder", ema=averaged)
    if cls is UMT5Text:
        settings |= _umt5_files(files, weights, published, source)
        if not settings.get("configuration") and not files.get("weights"):
            settings["configuration"] = published.text_encoder
        wanted: dict[str, tuple[int, ...]] = {"fingerprint": (4,)}
        limit = settings.get("max_tokens", MAX_TOKENS)
        length_check = partial(token_check, settings["tokenizer"], limit)
    else:
        defaults = {"rows": 4096, "max_words": 16} | settings
        wanted = {
            "words": (defaults["rows"], defaults["dim"]),
            "positions": (defaults["max_words"], defaults["dim"]),
        }
        length_check = partial(_words, defaults["max_words"])
    if stored is not None and (shapes := {n: t.shape for n, t in stored.tensors.items()}) != wanted:
        raise UserError(
            f"checkpoint {source} contradicts itself: its text encoder holds {shown(shapes)}, its configuration says "
            f"{wanted}"
        )

    def load(_dtype: Any, device: Any, too_long: str | None) -> nn.Module:
        text = cls(**settings)
        if too_long is not None:
            text.fit = CutTexts(text.fit.limit, text.fit.count, too_long, OPTION)
        if stored is not None:
            text.load_state_dict({name: finite(name, tensor, source) for name, tensor in stored.stream()})
        return text.to(device).eval()

    return load, length_check


def _words(limit: int, choice: str) -> CutTexts:
    return CutTexts(limit, word_count, choice, OPTION)


def _umt5_files(
    files: Mapping[str, Any], weights: str | Path | None, published: ReleasedModel, source: str
) -> dict[str, Any]:
    if files.get("weights") and files.get("tokenizer"):
        return {"weights": files["weights"], "tokenizer": files["tokenizer"]}
    if weights is None:
        raise UserError(
            f"checkpoint {source} was trained with umT5, whose files it does not hold: name them, text.weights=FILE "
            "text.tokenizer=FOLDER, or the folder that holds Wan2.2-TI2V-5B, weights=FOLDER"
        )
    found = find_parts(weights, published, ("text_encoder", "tokenizer"))
    return {"weights": found["text_encoder"], "tokenizer": found["tokenizer"]}
