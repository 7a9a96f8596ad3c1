"""Fitting of a codec on the clips of media shards, and a measure of what it loses.

Shape suffixes: N clips.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from filelock import FileLock

from ovi_eval.common.files import file_sha256
from ovi_lab.codecs import LatentCodec
from ovi_lab.codecs.pair import default_codec
from ovi_lab.data.dataset import ClipDataset, media_runs
from ovi_lab.data.index import digest_of
from ovi_lab.data.prepare import media_batches
from ovi_lab.data.shard_files import local_copy
from ovi_lab.errors import UserError


def learned_from(dataset: ClipDataset, limit: int) -> dict[str, Any]:
    """The inputs of a fit in plain values: the same values, the same codec."""
    return {
        "shards": {path.name: file_sha256(local_copy(path)) for path in dataset.paths},
        "format": vars(dataset.media_format) if dataset.media_format else None,
        "clips": min(len(dataset), limit),
    }


def fit_codec(dataset: ClipDataset, limit: int) -> LatentCodec:
    """BlockPCA and BandVocoder fitted on the first `limit` clips, at these clips' rates.

    Raises:
        UserError: no usable clip, latents instead of media, or sizes and rates that the codecs cannot take.
    """
    if "media" not in dataset.kinds:
        raise UserError(f"{dataset.paths[0]} holds latents; a codec is fitted on media")
    first = next(media_runs(dataset, 1, 1), None)
    if first is None:
        raise UserError(f"no clip of {dataset.paths[0]} can be used")
    codec = default_codec(first[0][1].fps, first[0][1].sample_rate)
    codec.fitted_on = learned_from(dataset, limit)
    return codec.fit(media_batches(dataset, limit))


def fitted_codec(dataset: ClipDataset, limit: int, root: Path) -> Path:
    """The file of the codec fitted on the first `limit` clips: kept under `root` by what it was fitted on."""
    digest = digest_of(learned_from(dataset, limit))
    path = root / f"codec-{digest[:10]}.safetensors"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{path.name}.lock"):
        if not path.is_file():
            fit_codec(dataset, limit).save(path)
    return path


def quality(codec: LatentCodec, dataset: ClipDataset, clips: int = 32) -> list[tuple[str, str]]:
    """Rows (name, value) on the first clips after encoding and decoding."""
    frames_N, waves_N = next(media_batches(dataset, clips))
    video_N, audio_N = codec.encode(frames_N, waves_N)
    back_N, sound_N = codec.decode(video_N, audio_N, waves_N.shape[1])
    error = (back_N.float() - frames_N.float()).square().mean().item() / 255**2
    again_N = codec.audio.encode(sound_N)
    heard = (again_N - audio_N).square().mean().sqrt().item()
    return [
        ("latents", f"video {list(video_N.shape[1:])}, audio {list(audio_N.shape[1:])}"),
        ("picture", f"{-10 * math.log10(max(error, 1e-10)):.1f} dB PSNR over {len(frames_N)} clips"),
        ("sound", f"decoded and analysed again: {heard:.3f} standard deviations off"),
    ]
