"""Sound as 16-bit whole numbers of one channel, the way published scripts have FFmpeg write it to a WAV file.

The same samples as `ffmpeg -i FILE -ac 1 -ar RATE -c:a pcm_s16le` of FFmpeg 9: channels mixed and resampled
by its resampler in one go, and the last frame cut where the container says that the sound ends, which older
versions of the command line do not do.
"""

from pathlib import Path

import av
import numpy as np

from .errors import EvalError
from .media import check_length, opened


def decode_pcm16(source: str | Path | bytes, sample_rate: int, *, name: str | None = None) -> np.ndarray:
    """All sound of the first sound stream: [S] int16 at `sample_rate`.

    `source`: a path, or a file's bytes (then `name` is what errors call it). Raises EvalError naming the file
    where it is unreadable, has no sound stream or no sample.
    """
    with opened(source, name) as (container, shown):
        if not container.streams.audio:
            raise EvalError(f"{shown}: has no sound stream; this metric listens")
        stream = container.streams.audio[0]
        left = None
        if stream.duration is not None and stream.time_base is not None:
            left = round(stream.duration * stream.time_base * stream.rate)
        resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
        parts: list[np.ndarray] = []
        begun = False
        for frame in container.decode(stream):
            if left is not None and frame.samples > left:
                if left == 0:
                    break
                frame = _shortened(frame, left)
            # Without a time the resampler neither drops nor inserts samples where a file's clock is coarse.
            frame.pts = None
            begun = True
            parts += [out.to_ndarray()[0] for out in resampler.resample(frame)]
            left = None if left is None else left - frame.samples
        if begun:
            parts += [out.to_ndarray()[0] for out in resampler.resample(None)]
        samples = sum(len(part) for part in parts)
        if not samples:
            raise EvalError(f"{shown}: its sound stream holds no sample")
        check_length(container, stream, samples / sample_rate, shown)
    return np.concatenate(parts)


def _shortened(frame: av.AudioFrame, samples: int) -> av.AudioFrame:
    """The first samples of a frame, in its own format."""
    values = frame.to_ndarray()
    # Packed formats hold their channels in turn along one row.
    width = samples if frame.format.is_planar else samples * frame.layout.nb_channels
    cut = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(values[:, :width]), format=frame.format.name, layout=frame.layout.name
    )
    cut.sample_rate = frame.sample_rate
    return cut
