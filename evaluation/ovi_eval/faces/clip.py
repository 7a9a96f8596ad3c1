"""A clip prepared for face tracking: 25 frames a second, kept as JPEGs, and 16 kHz sound.

As SyncNet's release does, every frame goes through a JPEG of FFmpeg's quantiser 2, on which faces are detected
and from which they are cropped. That also keeps clips of any size small: nothing but JPEGs, the frames that the
detector looks at and, until the cuts are found, thumbnails is held.

Time begins with the first frame. The frame shown at n / 25 s is the last whose time, rounded to the nearest
multiple of 1 / 25 s (halves up), is no later (`clips.timing.seen`); frames are repeated or left out for that. Sound
that begins later than the picture is preceded by silence, and sound before it is left out.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovi_eval.backbones import jpeg
from ovi_eval.backbones.mfcc import SAMPLE_RATE
from ovi_eval.backbones.syncnet import FPS, SAMPLES_PER_FRAME
from ovi_eval.clips.clip import missing_at_end
from ovi_eval.clips.clipset import SILENT
from ovi_eval.clips.items import Item
from ovi_eval.clips.picture import Video
from ovi_eval.errors import UserError
from ovi_eval.faces import scenes
from ovi_eval.faces.detection import Detector
from ovi_eval.faces.frame_store import Files, Pictures

QUANTISER = 2


@dataclass(frozen=True)
class PreparedClip:
    """A clip before face detection.

    `jpegs` and `small` (what the detector takes) are by the file's own frames; `shown` is which of them is seen
    in each frame at 25 fps, and `scenes` are in frames at 25 fps. `wave_S`: int16 at 16 kHz.
    """

    jpegs: Files
    small: Pictures
    height: int
    width: int
    shown: list[int]
    scenes: list[tuple[int, int]]
    wave_S: np.ndarray

    def picture(self, number: int) -> np.ndarray:
        """The frame [H, W, 3] uint8, BGR, that is seen at number / 25 s."""
        return jpeg.opened(self.jpegs[self.shown[number]])

    def sound(self, first: int, end: int) -> np.ndarray:
        """The sound of frames `first` to `end` - 1."""
        return self.wave_S[first * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME]


def prepare(item: Item, detector: Detector) -> PreparedClip:
    """A clip's frames and sound. Raises UserError where it has no picture, no sound, or nothing but silence."""
    jpegs, small, thumbnails = Files(), Pictures(), Pictures()
    size = (0, 0)

    def look(frame_HWC: Tensor) -> Tensor:
        nonlocal size
        data = jpeg.encoded_one(frame_HWC.numpy(), FPS, QUANTISER)
        picture_HWC = jpeg.opened(data)
        jpegs.append(data)
        size = (picture_HWC.shape[0], picture_HWC.shape[1])
        small.append(detector.shrink(np.ascontiguousarray(picture_HWC[..., ::-1])))
        thumbnails.append(scenes.shrunk(picture_HWC))
        return torch.empty(0)

    video = item.frames_through(look)
    shown = at_25_fps(video)
    cuts = scenes.scenes([thumbnails[place] for place in shown], FPS)
    wave_S = _sound(item, video)
    return PreparedClip(jpegs, small, *size, shown, cuts, wave_S)


def at_25_fps(video: Video) -> list[int]:
    """The number of the clip's frame that is seen in each frame at 25 fps."""
    return video.seen(FPS).tolist()


def _sound(item: Item, video: Video) -> np.ndarray:
    audio, start = item.audio(SAMPLE_RATE), float(video.times_T[0])
    missing_at_end(audio.end, start, video.seconds, item.name)
    wave_S = item.pcm16(SAMPLE_RATE)
    late = round((audio.start - start) * SAMPLE_RATE)
    wave_S = wave_S[-late:] if late < 0 else np.pad(wave_S, (late, 0))
    if not len(wave_S) or int(np.abs(wave_S.astype(np.int32)).max()) < SILENT * 32768:
        raise UserError(f"{item.name}: its sound is silence")
    return wave_S
