"""Frozen encoders between media and latents, behind two small protocols: one for pictures, one for sound."""

from ovi_lab.codecs.base import (
    AudioCodec,
    VideoCodec,
    audio_codec,
    register_audio,
    register_video,
    video_codec,
)
from ovi_lab.codecs.pair import LatentCodec

__all__ = [
    "AudioCodec",
    "LatentCodec",
    "VideoCodec",
    "audio_codec",
    "register_audio",
    "register_video",
    "video_codec",
]
