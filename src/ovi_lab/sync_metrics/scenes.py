"""Clips of a world whose sound can be made again from other events than the picture's.

A `SoundTrack` is what is heard in a clip: when, what, and in whose voice. The world's own renderer makes its sound, so
that a moved event is exactly the event at another time, and the unchanged track gives the world's own wave.

Shapes: K events of a clip, S samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.mouth.speech import VOICES
from ovi_lab.common.seeding import seed_for
from ovi_lab.data.worlds import bouncing_ball, speaking_mouth
from ovi_lab.errors import UserError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SoundTrack:
    """What is heard in a clip.

    `times` [K] seconds from the clip's start, in any order; events may begin before the clip or after its end. `like`
    [K] says which of the world's own events each is made like, by its place. `words` [K]: the syllable of each, or "".
    `voice`: the colour whose pitch it has.
    """

    times: Array
    like: NDArray[np.int64]
    words: tuple[str, ...]
    voice: str

    def __post_init__(self) -> None:
        if not len(self.times) == len(self.like) == len(self.words):
            raise ValueError(f"{len(self.times)} times, {len(self.like)} likes and {len(self.words)} words")

    def take(self, places: Sequence[int] | NDArray[Any]) -> SoundTrack:
        """The events of these places."""
        at = np.asarray(places, dtype=np.int64)
        return SoundTrack(self.times[at], self.like[at], tuple(self.words[i] for i in at), self.voice)


class Scenes(ABC):
    """Clips of one world with their tracks. Subclasses give `_plan`, `track_of` and `_sound`.

    Args:
        indices: which clips.
        seed: which world, as `World.render` has it.

    `clips` are as the world renders them; `tracks` what is heard in each, as it was drawn.
    """

    short: str
    """How the world's metrics begin."""
    world: Any
    voices: tuple[str, ...]

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        self.seed = seed
        self.clips: ClipSet = self.world.render(indices, seed)
        self._plans = [self._plan(seed, int(index)) for index in indices]
        self.tracks = [self.track_of(plan) for plan in self._plans]

    @property
    def seconds(self) -> float:
        """Length of a clip."""
        return float(self.world.duration_s)

    def inside(self, track: SoundTrack) -> NDArray[np.int64]:
        """Places of the events that begin within the clip."""
        return np.flatnonzero((track.times >= 0) & (track.times < self.seconds))

    def sound(self, place: int, track: SoundTrack) -> NDArray[np.float32]:
        """The sound [S] of the clip at that place, were its events those of `track`."""
        order = np.argsort(track.times, kind="stable")
        return self._sound(self._plans[place], track.take(order))

    def random(self, purpose: str, place: int) -> np.random.Generator:
        """The generator of a purpose and a clip; neither other clips nor other purposes change it."""
        return np.random.default_rng(seed_for(self.seed, "sync-metrics", purpose, self.clips.ids[place]))

    @abstractmethod
    def _plan(self, seed: int, index: int) -> Any:
        """The world's own facts of a clip."""

    @abstractmethod
    def track_of(self, plan: Any) -> SoundTrack:
        """What is heard in the world's own clip."""

    @abstractmethod
    def _sound(self, plan: Any, track: SoundTrack) -> NDArray[np.float32]:
        """As `sound`, of events in their order."""


class BallScenes(Scenes):
    """The bouncing ball. Its sound is a part of a longer one: hits before and after the clip are events as well."""

    short, world = "ball", bouncing_ball.BouncingBall()
    voices = tuple(bouncing_ball.COLOURS)
    _SILENT_BEFORE_S = -60.0
    """A hit so long ago is not heard any more; the renderer wants one before the clip's start."""

    def _plan(self, seed: int, index: int) -> Any:
        return bouncing_ball._Plan(seed, index, self.world.duration_s, self.world.num_samples)

    def track_of(self, plan: Any) -> SoundTrack:
        hits = len(plan.landings)
        return SoundTrack(plan.landings.copy(), np.arange(hits), ("",) * hits, plan.colour)

    def _sound(self, plan: Any, track: SoundTrack) -> NDArray[np.float32]:
        struck = copy(plan)
        struck.pitch_hz = bouncing_ball.COLOURS[track.voice][1]
        early = [self._SILENT_BEFORE_S] if not len(track.times) or track.times[0] > 0 else []
        struck.landings = np.concatenate([early, track.times])
        wave: NDArray[np.float32] = self.world._sound([struck])[0]
        return wave


class MouthScenes(Scenes):
    """The speaking mouth. Nothing is said before the clip or after it."""

    short, world = "mouth", speaking_mouth.SpeakingMouth()
    voices = tuple(VOICES)
    _MARGIN_S = 1
    """Rendered before and after the clip and cut off, so that a syllable can be half outside."""

    def _plan(self, seed: int, index: int) -> Any:
        return speaking_mouth._Utterance(seed, index, self.world)

    def track_of(self, plan: Any) -> SoundTrack:
        said = len(plan.onsets)
        return SoundTrack(plan.onsets.copy(), np.arange(said), tuple(plan.syllables), plan.colour)

    def _sound(self, plan: Any, track: SoundTrack) -> NDArray[np.float32]:
        margin = self._MARGIN_S * self.world.sample_rate
        longer = copy(self.world)
        longer.num_samples = self.world.num_samples + 2 * margin
        latest = longer.num_samples / longer.sample_rate
        at = track.times + self._MARGIN_S
        kept = (at >= 0) & (at < latest)
        said = copy(plan)
        said.pitch_hz = VOICES[track.voice]
        said.onsets = at[kept]
        said.syllables = [word for word, here in zip(track.words, kept, strict=True) if here]
        like = track.like[kept]
        said.lengths, said.gains, said.noise_KS = plan.lengths[like], plan.gains[like], plan.noise_KS[like]
        said.hiss_S = np.pad(plan.hiss_S, margin)
        wave: NDArray[np.float32] = longer._sound(said)[margin:-margin]
        return wave


SCENES: dict[str, type[Scenes]] = {"bouncing_ball": BallScenes, "speaking_mouth": MouthScenes}
"""By the world's name."""


def scenes_of(world: str) -> type[Scenes]:
    """The scenes of a world. Raises UserError for a world whose sound cannot be made again."""
    if world not in SCENES:
        raise UserError(f"no faults can be planted in the world {world!r}: there are {', '.join(SCENES)}")
    return SCENES[world]
