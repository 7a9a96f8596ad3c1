"""Opening a bundle: a released model, or the checkpoint of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ovi_eval.common.shown import did_you_mean, shown
from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.configuration import Configuration, check_model
from ovi_lab.checkpoints.opening import model_weights
from ovi_lab.checkpoints.presets import (
    PRESET_FILE,
    ReleasedModel,
    is_released,
    load_released,
    load_towers,
    released_model,
    released_names,
)
from ovi_lab.checkpoints.published_codecs import load_codecs, sizes_in
from ovi_lab.checkpoints.weights_layout import find_layout, find_parts
from ovi_lab.codecs import LatentCodec
from ovi_lab.codecs.mmaudio import MMAudioCodec, MMAudioConfig
from ovi_lab.codecs.wan22 import Wan22Config, Wan22VAE
from ovi_lab.common.fields import Positive, checked
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES
from ovi_lab.sampling.bundle import (
    Bundle,
    Formats,
    TextSource,
    lengthened,
    released_formats,
    scaled_shapes,
)
from ovi_lab.text import SeparateText, StoredText, UMT5Text
from ovi_lab.text.parts import TextParts


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
        bundle = _released_bundle(preset, _weights_folder(checkpoint, weights, preset))
    else:
        near = did_you_mean(str(checkpoint), released_names(), 1)
        if near and not Path(checkpoint).exists():
            raise UserError(f"no checkpoint at {checkpoint}, and no released model has that name; {near}")
        bundle = run_bundle(checkpoint, weights, ema, text_files, length)
    bundle = replace(bundle, formats=replace(bundle.formats, length=length))
    bundle.formats.check_size()
    if rope_factor is None:
        return bundle
    checked(Positive, rope_factor, "rope_factor")
    facts = {**bundle.formats.facts, "rope_factor": rope_factor}
    return replace(bundle, formats=replace(bundle.formats, facts=facts), rope_factor=rope_factor)


def _weights_folder(checkpoint: str | Path, weights: str | Path | None, preset: ReleasedModel) -> Path:
    """The folder of all weights: `weights=`, or the folder whose preset `checkpoint=` names."""
    folder = Path(checkpoint)
    folder = folder.parent if folder.name == PRESET_FILE else folder
    if weights is None and not (folder / PRESET_FILE).is_file():
        raise UserError(
            f"weights= is not given: name the folder with {preset.file}, Wan2.2-TI2V-5B and MMAudio below it"
        )
    return folder if weights is None else Path(weights)


def _released_bundle(preset: ReleasedModel, weights: Path) -> Bundle:
    layout = find_layout(weights, preset)
    files = layout.weight_files()
    return Bundle(
        formats=released_formats(preset),
        layers=preset.model["video"]["num_layers"],
        text=TextSource(
            UMT5Text,
            {
                "weights": layout.text_encoder,
                "tokenizer": layout.tokenizer,
                "dim": preset.model["video"].get("text_dim", 4096),
                "configuration": preset.text_encoder,
            },
        ),
        towers=partial(load_released, layout.model, preset.model),
        codecs=partial(load_codecs, preset, vars(layout)),
        files=files,
        size=sum(file.stat().st_size for file in files.values()),
        preset=preset,
    )


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
    published = _published_preset(weights)
    codec = LatentCodec.load(checkpoint.file("codec.safetensors")) if own else None
    shapes = _checked_shapes(config, settings, codec, published, source)
    shapes = {m: s for m, s in scaled_shapes(shapes, length, "length").items() if settings[m] is not None}
    text = _run_text(checkpoint, config, averaged, text_files or {}, weights, published)

    def towers(dtype: torch.dtype, device: Any) -> TwinDiT:
        return load_towers(model_weights(checkpoint, ema=averaged), settings, source, dtype, device)

    video: Any = codec.video if codec else Wan22VAE
    sound: Any = codec.audio if codec else MMAudioCodec
    formats = Formats(
        str(config.plain.get("name") or checkpoint.path.name),
        shapes,
        codec.fps if codec else published.fps,
        codec.sample_rate if codec else published.sample_rate,
        video.strides,
        video.first_frame_alone,
        sound.token_samples,
        facts={"ema": averaged},
    )
    names = [n for n in checkpoint.files if n.endswith(".safetensors") and (n.startswith("ema/") <= averaged)]
    bundle = Bundle(
        formats,
        settings[next(iter(shapes))]["num_layers"],
        text,
        towers,
        lambda *_: (video, sound),
        known_digests={name: checkpoint.files[name]["sha256"] for name in sorted(names)},
        size=sum(checkpoint.files[name]["size"] for name in names),
    )
    return bundle if codec else _with_published_codecs(bundle, settings, published, str(weights))


def _with_published_codecs(
    bundle: Bundle, settings: dict[str, Any], published: ReleasedModel, weights: str
) -> Bundle:
    """The bundle of a run on published latents, with the codecs of a folder of released weights."""
    files = find_parts(weights, published, ("video_vae", "audio_vae", "vocoder"))
    shapes = bundle.formats.shapes
    _, frames, h, w = shapes.get("video", (0, 1, 1, 1))
    area = h * Wan22VAE.strides[1], w * Wan22VAE.strides[2]
    preset = None
    if len(shapes) == len(MODALITIES):
        preset = replace(
            published, name=bundle.name, model=settings, video_latent_frames=frames,
            audio_latents=shapes["audio"][0], area=area,
        )  # fmt: skip
    return replace(
        bundle,
        formats=replace(bundle.formats, area=area, noise="reference"),
        codecs=partial(load_codecs, published, files),
        files={f"weights/{part}/{file.name}": file for part, file in files.items()},
        size=bundle.size + sum(file.stat().st_size for file in files.values()),
        preset=preset,
    )


def _published_preset(weights: str | Path | None) -> ReleasedModel:
    if weights is not None and not Path(weights).is_dir():
        raise UserError(f"weights={weights} is no folder: name the one that holds Wan2.2-TI2V-5B and MMAudio")
    return sizes_in(weights)


def _checked_shapes(
    config: Configuration,
    settings: Mapping[str, Any],
    codec: LatentCodec | None,
    published: ReleasedModel,
    source: str,
) -> dict[str, tuple[int, ...]]:
    """The shapes of one clip's latents, whose widths are the model's and the codec's."""
    shapes = config.latent_shapes()
    if shapes is None:
        raise UserError(
            f"checkpoint {source} does not tell its latent_shapes: it cannot be sampled by itself"
        )
    widths = {
        "video": codec.video.channels if codec else Wan22Config.of(published.video_codec).channels,
        "audio": codec.audio.channels if codec else MMAudioConfig.of(published.audio_codec).channels,
    }
    for modality in [m for m in MODALITIES if settings[m] is not None]:
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
) -> TextSource:
    """A run's text encoder. A run on stored embeddings has none of its own: they were made by the published umT5."""
    source = str(checkpoint.path)
    encoder: Any = UMT5Text
    settings: dict[str, Any] = {}
    stored = None
    own: Any = (None, {}) if config.plain.get("text") is None else config.text_encoder()
    if own[0] not in (None, StoredText):
        encoder, settings = own
        if not checkpoint.has("text_encoder.safetensors"):
            raise UserError(
                f"checkpoint {source} has no text_encoder.safetensors: it cannot be sampled by itself"
            )
        stored = checkpoint.stored("text_encoder", ema=averaged)
    if encoder is UMT5Text:
        settings |= _umt5_files(files, weights, published, source)
        if not settings.get("configuration") and not files.get("weights"):
            settings["configuration"] = published.text_encoder
        wanted: dict[str, tuple[int, ...]] = {"fingerprint": (4,)}
    else:
        dim, rows, words = settings["dim"], settings.get("rows", 4096), settings.get("max_words", 16)
        wanted = {"words": (rows, dim), "positions": (words, dim)}
        if encoder is SeparateText:
            reads = TextParts(settings.get("reads") or {}, settings.get("sound_after")).reads
            own = [m for m in MODALITIES if reads[m] != "none"]
            wanted = {f"encoders.{m}.{name}": shape for m in own for name, shape in wanted.items()}
    if stored is not None and (shapes := {n: t.shape for n, t in stored.tensors.items()}) != wanted:
        raise UserError(
            f"checkpoint {source} contradicts itself: its text encoder holds {shown(shapes)}, its configuration says "
            f"{wanted}"
        )
    return TextSource(encoder, settings, stored)


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
