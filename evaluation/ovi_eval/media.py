"""Picture and sound read from media files, and written as mp4: what `ovi_eval.clips` has, by the names in use.

Shapes: N clips, T frames, H rows, W columns, C channels of sound, S samples. See docs/clips.md for how a clip is read.
"""

from .clips.clip import Clip, aligned, fit_length, from_start, missing_at_end, read_clip
from .clips.container import opened
from .clips.picture import PictureStream, Video, decode_video
from .clips.sound import Audio, SoundStream, decode_audio
from .clips.writing import resample, write_mp4
from .clipset import FAILED, ClipSet

__all__ = [
    "FAILED",
    "Audio",
    "Clip",
    "ClipSet",
    "PictureStream",
    "SoundStream",
    "Video",
    "aligned",
    "decode_audio",
    "decode_video",
    "fit_length",
    "from_start",
    "missing_at_end",
    "opened",
    "read_clip",
    "resample",
    "write_mp4",
]
