"""Faults that are planted in clips, each of a known kind and of known sizes.

A fault draws from generators of its own clip by clip, and its sizes are nested: the same events are moved the same way,
only further, and the clips that a small share has are among those of a larger one.

Shapes: N clips, K events of a clip, T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ovi_eval.ball.references import with_others_sound
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.mouth.speech import VOWELS
from ovi_lab.common.seeding import seed_for
from ovi_lab.sync_metrics.scenes import Scenes, SoundTrack

APART_S = 0.175
"""From an extra event to any other: the detectors tell them apart, and events match within 75 ms."""
TRIES = 1000


@dataclass(frozen=True)
class Planted:
    """Clips with a fault. `moved_ms` [N]: the mean distance of a clip's events from where they belong, NaN for a fault
    that is not one of time.
    """

    clips: ClipSet
    moved_ms: NDArray[np.float64]


@dataclass(frozen=True)
class PlantedFault:
    """A kind of fault.

    `sizes` from small to large, in `unit`, as they are shown; `plant` makes the clips of a size. `worlds`: the short
    names of the worlds that can have it. `timing`: it moves events, and nothing else.
    """

    name: str
    what: str
    sizes: tuple[float, ...]
    unit: str
    plant: Callable[[Scenes, float], Planted]
    worlds: tuple[str, ...] = ("ball", "mouth")
    timing: bool = False


def untouched(scenes: Scenes) -> Planted:
    """The clips as they are: the size 0 of every fault."""
    return Planted(scenes.clips, np.zeros(len(scenes.clips)))


def _moved(
    move: Callable[[Scenes, int, SoundTrack, float], SoundTrack],
) -> Callable[[Scenes, float], Planted]:
    """Plants by other times of the same events."""

    def plant(scenes: Scenes, size: float) -> Planted:
        waves, distances = [], []
        for place, track in enumerate(scenes.tracks):
            own = move(scenes, place, track, size)
            inside = scenes.inside(track)
            distances.append(1000 * float(np.abs(own.times - track.times)[inside].mean()))
            waves.append(torch.from_numpy(scenes.sound(place, own)))
        return Planted(scenes.clips.with_waves(torch.stack(waves)), np.array(distances))

    return plant


def _other_track(
    change: Callable[[Scenes, int, SoundTrack, float], SoundTrack],
) -> Callable[[Scenes, float], Planted]:
    """Plants by other events."""

    def plant(scenes: Scenes, size: float) -> Planted:
        waves = [
            torch.from_numpy(scenes.sound(place, change(scenes, place, track, size)))
            for place, track in enumerate(scenes.tracks)
        ]
        return Planted(scenes.clips.with_waves(torch.stack(waves)), np.full(len(waves), np.nan))

    return plant


def _shared(name: str, whole: Callable[[Scenes], ClipSet]) -> Callable[[Scenes, float], Planted]:
    """Plants in a share of the clips, in percent: those with the smallest numbers of a draw, rounded to whole clips."""

    def plant(scenes: Scenes, size: float) -> Planted:
        count = len(scenes.clips)
        drawn = [scenes.random(f"{name}, share", place).uniform() for place in range(count)]
        changed = np.argsort(np.argsort(drawn, kind="stable")) < round(size / 100 * count)
        waves = torch.where(torch.from_numpy(changed)[:, None], whole(scenes).waves_NS, scenes.clips.waves_NS)
        return Planted(scenes.clips.with_waves(waves), np.full(count, np.nan))

    return plant


def _late(scenes: Scenes, place: int, track: SoundTrack, ms: float) -> SoundTrack:
    return replace(track, times=track.times + ms / 1000)


def _early(scenes: Scenes, place: int, track: SoundTrack, ms: float) -> SoundTrack:
    return replace(track, times=track.times - ms / 1000)


def _jitter(scenes: Scenes, place: int, track: SoundTrack, ms: float) -> SoundTrack:
    steps = scenes.random("jitter", place).standard_normal(len(track.times))
    return replace(track, times=track.times + ms / 1000 * steps)


def _tempo(scenes: Scenes, place: int, track: SoundTrack, percent: float) -> SoundTrack:
    return replace(track, times=track.times * (1 + percent / 100))


def _missing(scenes: Scenes, place: int, track: SoundTrack, count: float) -> SoundTrack:
    order = scenes.random("missing", place).permutation(scenes.inside(track))
    return track.take(np.setdiff1d(np.arange(len(track.times)), order[: int(count)]))


def _extra(scenes: Scenes, place: int, track: SoundTrack, count: float) -> SoundTrack:
    rng = scenes.random("extra", place)
    times, like = list(track.times), list(track.like)
    for _ in range(int(count)):
        free = rng.uniform(0.05, scenes.seconds - 0.25, TRIES)
        far = np.abs(free[:, None] - np.array(times)).min(axis=1)
        first = np.flatnonzero(far >= APART_S)
        times.append(float(free[first[0]] if len(first) else free[far.argmax()]))
        like.append(int(rng.choice(scenes.inside(track))))
    words = (*track.words, *(track.words[i] for i in like[len(track.words) :]))
    return SoundTrack(np.array(times), np.array(like), words, track.voice)


def _others(scenes: Scenes) -> ClipSet:
    return with_others_sound(scenes.clips, seed_for(scenes.seed, "sync-metrics", "other, as many"))


def _any_others(scenes: Scenes) -> ClipSet:
    """Each clip with the sound of the next in a drawn order, whatever it holds."""
    order = np.random.default_rng(seed_for(scenes.seed, "sync-metrics", "other, any")).permutation(
        len(scenes.clips)
    )
    source = np.empty_like(order)
    source[order] = np.roll(order, 1)
    return scenes.clips.with_waves(scenes.clips.waves_NS[torch.from_numpy(source)])


def _again(change: Callable[[Scenes, int, SoundTrack], SoundTrack]) -> Callable[[Scenes], ClipSet]:
    """All clips with the sound of another track."""

    def whole(scenes: Scenes) -> ClipSet:
        waves = [scenes.sound(place, change(scenes, place, t)) for place, t in enumerate(scenes.tracks)]
        return scenes.clips.with_waves(torch.from_numpy(np.stack(waves)))

    return whole


def _wrong_voice(scenes: Scenes, place: int, track: SoundTrack) -> SoundTrack:
    others = [voice for voice in scenes.voices if voice != track.voice]
    return replace(track, voice=others[int(scenes.random("wrong voice", place).integers(len(others)))])


def _wrong_vowels(scenes: Scenes, place: int, track: SoundTrack) -> SoundTrack:
    rng = scenes.random("wrong vowels", place)
    words = [
        word[0] + str(rng.choice([vowel for vowel in VOWELS if vowel != word[1]])) for word in track.words
    ]
    return replace(track, words=tuple(words))


def _sound_noise(scenes: Scenes, decibels: float) -> Planted:
    waves = scenes.clips.waves_NS
    power_N1 = waves.square().mean(dim=1, keepdim=True)
    noise = np.stack(
        [
            scenes.random("sound noise", place).standard_normal(waves.shape[1], np.float32)
            for place in range(len(waves))
        ]
    )
    noisy = waves + torch.from_numpy(noise) * torch.sqrt(power_N1 / 10 ** (decibels / 10))
    return Planted(scenes.clips.with_waves(noisy.clamp(-1, 1)), np.full(len(waves), np.nan))


def _picture_noise(scenes: Scenes, decibels: float) -> Planted:
    frames = scenes.clips.frames_NTHWC.float()
    power_N = frames.square().flatten(1).mean(dim=1)
    noise = np.stack(
        [
            scenes.random("picture noise", place).standard_normal(frames.shape[1:], np.float32)
            for place in range(len(frames))
        ]
    )
    level_N1111 = torch.sqrt(power_N / 10 ** (decibels / 10))[:, None, None, None, None]
    noisy = (frames + torch.from_numpy(noise) * level_N1111).round().clamp(0, 255).to(torch.uint8)
    return Planted(replace(scenes.clips, frames_NTHWC=noisy), np.full(len(frames), np.nan))


OFFSETS_MS = (25.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 400.0)
SHARES = (12.5, 25.0, 50.0, 100.0)
DECIBELS = (30.0, 20.0, 10.0, 5.0, 0.0)

FAULTS = {
    fault.name: fault
    for fault in (
        PlantedFault("late", "all of the sound late", OFFSETS_MS, "ms", _moved(_late), timing=True),
        PlantedFault("early", "all of the sound early", OFFSETS_MS, "ms", _moved(_early), timing=True),
        PlantedFault(
            "jitter",
            "each event's sound moved on its own, normal, by its standard deviation",
            (10.0, 25.0, 50.0, 75.0, 100.0, 150.0),
            "ms",
            _moved(_jitter),
            timing=True,
        ),
        PlantedFault(
            "tempo",
            "sound stretched from the clip's start, pitch kept",
            (2.0, 5.0, 10.0, 15.0, 20.0),
            "%",
            _moved(_tempo),
            timing=True,
        ),
        PlantedFault(
            "missing", "events without a sound, in every clip", (1.0, 2.0), "events", _other_track(_missing)
        ),
        PlantedFault(
            "extra", "sounds without an event, in every clip", (1.0, 2.0), "events", _other_track(_extra)
        ),
        PlantedFault(
            "other_as_many",
            "the sound of another clip with as many events, in a share of the clips",
            SHARES,
            "% of clips",
            _shared("other, as many", _others),
        ),
        PlantedFault(
            "other_any",
            "the sound of any other clip, in a share of the clips",
            SHARES,
            "% of clips",
            _shared("other, any", _any_others),
        ),
        PlantedFault(
            "wrong_voice",
            "right timing in the pitch of another colour, in a share of the clips",
            SHARES,
            "% of clips",
            _shared("wrong voice", _again(_wrong_voice)),
        ),
        PlantedFault(
            "wrong_vowels",
            "right timing and voice, every vowel another one, in a share of the clips",
            SHARES,
            "% of clips",
            _shared("wrong vowels", _again(_wrong_vowels)),
            worlds=("mouth",),
        ),
        PlantedFault("sound_noise", "white noise in the sound", DECIBELS, "dB", _sound_noise),
        PlantedFault("picture_noise", "white noise in the picture", DECIBELS, "dB", _picture_noise),
    )
}
"""By name. Of noise the size is the ratio of signal to noise, in dB: the smaller number is the larger fault."""
