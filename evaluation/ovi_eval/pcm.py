"""Sound as 16-bit whole numbers of one channel, the way published scripts have FFmpeg write it to a WAV file."""

from .clips.sound import decode_pcm16

__all__ = ["decode_pcm16"]
