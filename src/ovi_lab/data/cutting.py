"""A file's picture and sound cut into clips while they are decoded: at even rates, by the file's own clock.

No more than one clip is held, so memory does not grow with a file's length.

Shape suffixes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import av
import torch
from torch import Tensor

from ovi_eval.clips.clip import fit_length
from ovi_eval.clips.picture import PictureStream
from ovi_eval.clips.sound import SoundStream
from ovi_lab.data.index import BadSampleError
from ovi_lab.data.shards import MAX_MEMBER

LATE = 1e-4
"""Seconds by which a frame's time may lie after the moment at which it is seen: containers round times."""
COARSEST_TICK = 0.005
"""Seconds of a container's clock up to which times count as rounded to it (mkv: 1 ms); frames of a coarser clock,
as avi's, which counts them, are at their stated times.
"""


def seen_at(
    frames: Iterable[tuple[float, Tensor]], fps: float, late: float
) -> Iterator[tuple[float, Tensor]]:
    """The frame seen at 0, 1 / fps, 2 / fps, … seconds after the first, without end; nothing but the last is kept.

    Each comes with the seconds up to which the picture is known by then; infinity when it has ended, after which
    the last frame repeats.
    """
    start = 0.0
    before: Tensor | None = None
    shown = 0
    for time, frame in frames:
        if before is None:
            start = time
        else:
            while shown / fps + late < time - start:
                yield time - start, before
                shown += 1
        before = frame
    while before is not None:
        yield math.inf, before


def cut_picture(picture: PictureStream, fps: float, per_clip: int | None) -> Iterator[Tensor]:
    """uint8 [T,H,W,3] of one clip after the other, `per_clip` frames each; all frames in one clip where it is None.

    The remainder at the end is no clip, unless it is the only one and half a frame short at most.

    Raises:
        BadSampleError: the picture is shorter than one clip, or too long to be one.
        UserError: it cannot be decoded further.
    """
    frames: list[Tensor] = []
    clips = 0
    late = max(LATE, 1.5 * picture.tick) if picture.tick <= COARSEST_TICK else LATE
    for known, frame in seen_at(picture, fps, late):
        if known == math.inf:
            break
        frames.append(frame)
        if per_clip is None:
            _check_size(len(frames), frame)
        elif len(frames) >= per_clip and known + 0.5 / fps >= (clips + 1) * per_clip / fps:
            yield torch.stack(frames[:per_clip])
            frames = frames[per_clip:]
            clips += 1
    lasts = picture.end - picture.start
    if per_clip is None:
        per_clip = max(1, round(lasts * fps))
        count = 1
        _check_size(per_clip, frame)
    else:
        seconds = per_clip / fps
        count = max(1, int((lasts + 0.5 / fps) / seconds))
        # Half a frame of either rate may be missing: containers round times.
        if lasts < count * seconds - 0.5 / min(picture.fps, fps):
            raise BadSampleError(f"it lasts {lasts:.2f} s, {seconds:.2f} s are wanted")
    frames += [frame] * ((count - clips) * per_clip - len(frames))
    for number in range(count - clips):
        yield torch.stack(frames[number * per_clip : (number + 1) * per_clip])


def _check_size(count: int, frame: Tensor) -> None:
    if count * frame.nbytes > MAX_MEMBER:
        raise BadSampleError(
            f"its frames take more than {MAX_MEMBER / 2**30:.1f} GiB as one clip; cut it with --seconds"
        )


class CutSound:
    """A file's sound in one channel at `sample_rate`, in windows that count from the picture's first frame.

    Nothing but what later windows need is kept.
    """

    def __init__(self, sound: SoundStream, sample_rate: int, picture_start: float) -> None:
        self._sound, self._rate = sound, sample_rate
        self._late = round((sound.start - picture_start) * sample_rate)
        self._kept = torch.zeros(0)
        self._first = 0  # of the sound's samples at `sample_rate`, the number of the first that is kept
        self._taken = 0  # samples of the file
        self._ended = False
        other = sound.sample_rate != sample_rate
        self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=sample_rate) if other else None

    def window(self, first: int, count: int) -> tuple[Tensor, int, int]:
        """[count] from sample `first` on, and for how many at its beginning and its end there is no sound but silence.

        `first` must not fall from one window to the next. Raises UserError where the sound cannot be decoded further.
        """
        begin = first - self._late
        end = begin + count
        while not self._ended and self._first + len(self._kept) < end:
            self._drop(begin)
            self._take()
        self._drop(begin)
        wave_S = self._kept[max(0, begin - self._first) : max(0, end - self._first)]
        before = min(count, max(0, -begin))
        after = count - before - len(wave_S)
        return torch.nn.functional.pad(wave_S, (before, after)), before, after

    def _drop(self, begin: int) -> None:
        dropped = min(max(0, begin - self._first), len(self._kept))
        if dropped:
            self._kept, self._first = self._kept[dropped:].clone(), self._first + dropped

    def _take(self) -> None:
        block_S = self._sound.read(self._sound.sample_rate)
        self._taken += len(block_S)
        self._ended = not len(block_S)
        block_S = self._resampled(block_S)
        if self._ended:
            total = round(self._taken * self._rate / self._sound.sample_rate)
            block_S = fit_length(block_S, total - self._first - len(self._kept))
        self._kept = torch.cat([self._kept, block_S])

    def _resampled(self, block_S: Tensor) -> Tensor:
        """The samples at `sample_rate` that are ready after this block; an empty block is the last."""
        if self._resampler is None:
            return block_S
        frame = None
        if len(block_S):
            frame = av.AudioFrame.from_ndarray(
                block_S.contiguous().numpy()[None], format="fltp", layout="mono"
            )
            frame.sample_rate = self._sound.sample_rate
        parts = [torch.from_numpy(out.to_ndarray()[0]) for out in self._resampler.resample(frame)]
        return torch.cat(parts) if parts else torch.zeros(0)
