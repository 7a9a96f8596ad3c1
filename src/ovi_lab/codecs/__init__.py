"""Codecs between media and latents, behind two small protocols: one for video, one for audio."""

from ovi_lab.codecs.base import AudioCodec, VideoCodec, codec_class
from ovi_lab.codecs.pair import LatentCodec

__all__ = ["AudioCodec", "LatentCodec", "VideoCodec", "codec_class"]
