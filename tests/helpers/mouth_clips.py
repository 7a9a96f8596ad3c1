"""Real clips of the speaking mouth, as made and through the codec, for the tests of its world and metrics."""

from dataclasses import replace
from functools import cache

from ovi_eval.clips.clipset import ClipSet
from ovi_lab.codecs.pair import default_codec
from ovi_lab.data.worlds.speaking_mouth import SpeakingMouth


@cache
def mouth_clips(count: int = 96, seed: int = 7) -> ClipSet:
    return SpeakingMouth().render(range(count), seed)


@cache
def through_codec(count: int = 96, seed: int = 7) -> ClipSet:
    """The same clips, encoded and decoded by a codec that was fitted on others."""
    world, real, others = SpeakingMouth(), mouth_clips(count, seed), mouth_clips(192, seed + 1)
    codec = default_codec(world.fps, world.sample_rate, world.partials_hz)
    codec.fit([(others.frames_NTHWC, others.waves_NS)])
    frames_NTHWC, waves_NS = codec.decode(*codec.encode(real.frames_NTHWC, real.waves_NS))
    return replace(real, frames_NTHWC=frames_NTHWC, waves_NS=waves_NS)
