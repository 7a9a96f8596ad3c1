"""Packing of what has one modality: sound alone, and stills.

Shape suffixes: H rows, W columns, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ovi_eval.clips.sound import decode_audio
from ovi_eval.clips.writing import resample
from ovi_lab.data.decode import MediaClip, fit_frame, refuse_other_rate
from ovi_lab.data.images import read_image
from ovi_lab.data.index import BadSampleError, bad_sample
from ovi_lab.data.pack_options import PackOptions, PackReport, count_seconds
from ovi_lab.data.shards import MAX_MEMBER

NO_FRAMES = torch.empty(0, 0, 0, 3, dtype=torch.uint8)


def sounds_of(
    file: Path, name: str, options: PackOptions, report: PackReport
) -> Iterator[MediaClip | BadSampleError]:
    """The sound of a file in clips of `seconds`, or as one; a remainder is left out.

    Raises BadSampleError where it has none, cannot be decoded or is shorter than a clip.
    """
    if options.store == "original" and file.stat().st_size > MAX_MEMBER:
        raise BadSampleError(f"it has {file.stat().st_size} bytes; originals have at most {MAX_MEMBER}")
    with bad_sample():
        audio = decode_audio(file, name="its sound")
    wave_S, rate = audio.wave_S, audio.sample_rate
    if options.store != "original" and rate != options.sample_rate:
        refuse_other_rate(rate, options.sample_rate, options.on_resample)
        report.resampled[rate] += 1
        wave_S, rate = resample(wave_S, rate, options.sample_rate), options.sample_rate
    count_seconds(report.lost_sound, name, audio.filled)
    length = len(wave_S) if options.seconds is None else round(options.seconds * rate)
    count = len(wave_S) // length if length else 0
    if not count:
        raise BadSampleError(f"it lasts {len(wave_S) / rate:.2f} s, {options.seconds:g} s are wanted")
    for number in range(count):
        meta = {"start_s": number * length / rate, "source_rate": audio.sample_rate}
        piece_S = wave_S[number * length : (number + 1) * length].clone()
        yield MediaClip("", NO_FRAMES, 0.0, piece_S, rate, audio.sample_rate, meta)
    count_seconds(report.tails, name, (len(wave_S) - count * length) / rate)


def still_of(file: Path, options: PackOptions) -> Iterator[MediaClip | BadSampleError]:
    """An image as a clip of one frame. Raises BadSampleError where it cannot be read."""
    with bad_sample():
        image = read_image(file)
    frame_HWC = torch.from_numpy(np.array(image))
    meta = {"source_size": list(frame_HWC.shape[:2])}
    frame_HWC = fit_frame(frame_HWC, options.height, options.width)
    yield MediaClip("", frame_HWC[None], options.fps, torch.zeros(0), 0, 0, meta)
