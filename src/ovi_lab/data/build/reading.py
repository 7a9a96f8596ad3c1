"""A source file as clips: surveyed once for scenes and black bars, then decoded once for all steps.

One clip is held at a time, so memory does not grow with the length of a file. Times are the frames' own.

Shapes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovi_eval.clips.container import opened
from ovi_eval.clips.picture import PictureStream
from ovi_eval.clips.sound import SoundStream
from ovi_lab.data.build.clip import Candidate, shrunk
from ovi_lab.data.build.recipe import ClipForm
from ovi_lab.data.build.scenes import DETECTORS, scenes
from ovi_lab.data.cutting import COARSEST_TICK, LATE, CutSound, seen_at
from ovi_lab.data.decode import fit_frame
from ovi_lab.data.index import BadSampleError, bad_sample
from ovi_lab.data.pack import within_bars


@dataclass(frozen=True)
class Survey:
    """What the first pass over a file finds.

    `scenes`: begin and end of each in seconds after the first frame. `box`: rows and columns within the black bars.
    `late`: how far a frame's time may lie after the moment at which it is seen. `cut`: why this is not the whole file,
    where it is cut off.
    """

    scenes: list[tuple[float, float]]
    box: tuple[slice, slice]
    late: float
    cut: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def has_parts(file: Path) -> tuple[bool, bool]:
    """Whether a file has a picture and a sound. Raises BadSampleError where it cannot be read."""
    with bad_sample(), opened(file, "the file") as (container, _):
        pictures = [s for s in container.streams.video if not _is_cover(s)]
        return bool(pictures), bool(container.streams.audio)


def _is_cover(stream: Any) -> bool:
    """Whether a picture stream is the cover of a sound file."""
    return bool(int(stream.disposition) & 0x400)


def survey(file: Path, detector: str = "content") -> Survey:
    """Scenes by a detector of `ovi_lab.data.build.scenes`, and black bars; of a file that is cut off up to there."""
    find_changes, _ = DETECTORS[detector]
    lightest_HW = torch.zeros((), dtype=torch.uint8)

    def small(picture: PictureStream) -> Iterator[NDArray[np.uint8]]:
        nonlocal lightest_HW
        for _, (small_HWC, light_HW) in picture:
            lightest_HW = torch.maximum(light_HW, lightest_HW)
            yield small_HWC

    with bad_sample(), PictureStream(file, name="its picture", transform=_seen, cut_off=True) as picture:
        changes = find_changes(small(picture))
        times = (picture.times_T - picture.start).tolist()
        length = picture.end - picture.start
        tick, fps, size = picture.tick, picture.fps, picture.size
        cut = picture.cut
    found = scenes(times, length, changes)
    steps = np.diff(times) if len(times) > 1 else np.zeros(0)
    uneven = bool(len(steps)) and float(np.ptp(steps)) > 0.5 / max(fps, 1.0)
    late = max(LATE, 1.5 * tick) if tick <= COARSEST_TICK else LATE
    facts = {"source_fps": fps, "source_size": list(size), "variable_rate": uneven, "scenes": len(found)}
    return Survey(found, within_bars(lightest_HW), late, cut, facts)


def _seen(frame_HWC: Tensor) -> Any:
    return shrunk(frame_HWC.numpy()), frame_HWC.amax(-1)


def shape_for(height: int, width: int, form: ClipForm) -> tuple[int, int]:
    """Height and width of about `form.pixels` in the aspect of a picture, both multiples of `form.multiple`."""
    scale = math.sqrt(form.pixels / (height * width)) / form.multiple
    return max(1, round(height * scale)) * form.multiple, max(1, round(width * scale)) * form.multiple


def windows(scenes: list[tuple[float, float]], form: ClipForm) -> list[tuple[int, float]]:
    """The first frame, at the clips' rate, of each clip, and the length of the scene that it lies in; in order."""
    frames = form.frames or 1
    found = []
    for begin, end in scenes:
        first, count = math.ceil(begin * form.fps - 1e-6), 0
        while (first + frames) / form.fps <= end + 0.5 / form.fps and count != form.clips_per_scene:
            found.append((first, end - begin))
            first, count = first + frames, count + 1
    return found


def clips_of(file: Path, name: str, base: str, form: ClipForm) -> Iterator[Candidate]:
    """The clips of a file in order.

    Args:
        file: to read.
        name: of the source, in facts.
        base: of the clips' keys, `<base>-000`, ….
        form: of the clips.

    Raises BadSampleError where it holds none, or cannot be decoded further; after the clips that lie wholly before a
    place where it is cut off.
    """
    picture, sound = has_parts(file)
    if form.frames is None:
        if not sound:
            raise BadSampleError("it has no sound")
        yield from _sounds(file, name, base, form)
    elif not picture:
        raise BadSampleError("it has no picture")
    else:
        yield from _films(file, name, base, form, sound)


def _films(file: Path, name: str, base: str, form: ClipForm, has_sound: bool) -> Iterator[Candidate]:
    found = survey(file, form.scenes)
    starts = windows(found.scenes, form)
    frames = form.frames or 1
    if not starts:
        longest = max(end - begin for begin, end in found.scenes)
        short = f"its longest scene lasts {longest:.2f} s; a clip needs {frames / form.fps:.2f} s"
        raise BadSampleError(f"{found.cut}; before that {short}" if found.cut else short)
    box = found.box if form.crop_bars else (slice(None), slice(None))
    height, width = (
        len(range(*part.indices(n))) for part, n in zip(box, found.facts["source_size"], strict=True)
    )
    size = shape_for(height, width, form)
    facts = {**found.facts, "size": list(size)}
    scores = {"pixels": height * width, "source_fps": found.facts["source_fps"]}
    with ExitStack() as stack:
        stack.enter_context(bad_sample())
        transform = lambda frame: fit_frame(frame[box], *size)  # noqa: E731
        picture = stack.enter_context(
            PictureStream(file, name="its picture", transform=transform, cut_off=True)
        )
        cut, whole_s, sounds = found.cut, math.inf, []
        if has_sound:
            for rate in (form.sample_rate, None):
                stream = stack.enter_context(SoundStream(file, name="its sound", cut_off=True))
                sounds.append(CutSound(stream, rate or stream.sample_rate, picture.start))
            native_rate = stream.sample_rate
            if stream.cut is not None:
                cut, whole_s = cut or stream.cut.reason, stream.cut.until - picture.start
        held_THWC = torch.zeros(0)
        held = number = 0
        for place, (known, frame) in enumerate(seen_at(picture, form.fps, found.late)):
            if number == len(starts):
                break
            first, scene_seconds = starts[number]
            if place < first:
                continue
            if (
                not held
            ):  # one block a clip, which goes back to the system whole: single frames would litter the heap
                held_THWC = frame.new_empty(frames, *frame.shape)
            held_THWC[held] = frame
            held += 1
            if known == math.inf and held < frames - 1:
                break  # its frames end before its stated length
            if held < frames:
                continue
            clip = Candidate(
                f"{base}-{number:03d}", name, first / form.fps, held_THWC, form.fps, None, form.sample_rate
            )
            own = {**scores, "scene_seconds": scene_seconds, "seconds": clip.seconds, "silent_padding": None}
            if clip.start_s + clip.seconds > whole_s:
                break
            if has_sound:
                own["silent_padding"] = _add_sound(clip, sounds, native_rate, first / form.fps)
            clip.facts = {**facts, "scores": own}
            held, number = 0, number + 1
            yield clip
            del clip, held_THWC  # before the next clip's frames are there
    if cut is not None:
        raise BadSampleError(cut)


def _add_sound(clip: Candidate, sounds: list[CutSound], native_rate: int, start_s: float) -> float:
    """Give a clip its sound. Returns the seconds of silence in place of what is missing at its ends."""
    (wave_S, before, after), (native_S, *_) = (
        sound.window(round(start_s * rate), round(clip.seconds * rate))
        for sound, rate in zip(sounds, (clip.sample_rate, native_rate), strict=True)
    )
    if before + after >= len(wave_S):
        return clip.seconds  # no sound at all: a silent film here
    clip.wave_S, clip.native_S, clip.native_rate = wave_S, native_S, native_rate
    return (before + after) / clip.sample_rate


def _sounds(file: Path, name: str, base: str, form: ClipForm) -> Iterator[Candidate]:
    """Clips of sound alone: as long as may be, the last one what is left."""
    with ExitStack() as stack:
        stack.enter_context(bad_sample())
        sounds = []
        for rate in (form.sample_rate, None):
            stream = stack.enter_context(SoundStream(file, name="its sound", cut_off=True))
            sounds.append(CutSound(stream, rate or stream.sample_rate, stream.start))
        native_rate, number, cut = stream.sample_rate, 0, stream.cut
        whole_s = cut.until - stream.start if cut else 0.0
        longest = round(form.max_seconds * form.sample_rate)
        while form.clips_per_scene is None or number < form.clips_per_scene:
            start_s = number * form.max_seconds
            wave_S, _, after = sounds[0].window(round(start_s * form.sample_rate), longest)
            wave_S = wave_S[: longest - after]
            if cut is not None:
                wave_S = wave_S[: max(0, round((whole_s - start_s) * form.sample_rate))]
            seconds = len(wave_S) / form.sample_rate
            if seconds < form.min_seconds - 0.5 / form.sample_rate:
                break
            native_S, *_ = sounds[1].window(round(start_s * native_rate), round(seconds * native_rate))
            clip = Candidate(f"{base}-{number:03d}", name, start_s, None, form.fps, wave_S, form.sample_rate)
            clip.native_S, clip.native_rate = native_S, native_rate
            scores = {"pixels": None, "source_fps": None, "scene_seconds": None, "seconds": seconds}
            clip.facts = {"source_rate": native_rate, "scores": {**scores, "silent_padding": 0.0}}
            yield clip
            number += 1
    if cut is not None:
        raise BadSampleError(cut.reason)
    if not number:
        raise BadSampleError(f"its sound lasts {seconds:.2f} s; a clip needs {form.min_seconds:.2f} s")
