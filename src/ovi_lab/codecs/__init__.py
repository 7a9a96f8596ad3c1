"""Codecs between media and latents, behind two small protocols: one for video, one for audio."""

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
