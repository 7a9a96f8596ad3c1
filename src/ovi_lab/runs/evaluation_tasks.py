"""What a trained model is evaluated on: clips from captions alone, clips of which a part is given, and longer ones.

The given part is that of the real evaluation clips, as the codec encodes it. Shape suffixes: N clips, C channels, F h w
latent frames, rows, columns, L audio tokens, X either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from ovi_eval.ball.parts import Part
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.results.find_runs import TASKS as FOLDER
from ovi_lab.errors import UserError
from ovi_lab.flow.windows import Windows
from ovi_lab.models.config import Modality
from ovi_lab.models.given import Given, Mask
from ovi_lab.sampling.bundle import scaled_shapes

JOINT = "joint"
"""Picture and sound from captions, in the trained length."""
GIVEN = ("video_given", "audio_given", "beginning")
"""A part of a real clip is given."""
WINDOWS, ONE_PIECE = LONG = ("windows", "one_piece")
"""Clips longer than trained on, from captions: window by window, each beginning with the end of the one before, or in
one piece."""
TASKS = (JOINT, *GIVEN, *LONG)
AROUND_SEAM = 0.25
"""Seconds before and after the place where two windows meet, of the events that count as at a seam."""


@dataclass(frozen=True)
class EvaluationTask:
    """One of the tasks of an evaluation."""

    name: str
    """Of TASKS."""
    real: ClipSet
    """The real clips whose captions are sampled."""
    benchmark: str
    """In results: the task's name; empty where the joint one is the only task."""
    folder: str
    """Of its results, below the run's; empty for the first task."""
    shapes: Mapping[str, Sequence[int]]
    """Of a clip's latents; of a window's, where there are windows."""
    given: Given | None = None
    clean: Mapping[Modality, Tensor] | None = None
    """What is given of the clips, see `flow.sample`; None where nothing is."""
    windows: Windows | None = None
    parts: Sequence[Part] = ()
    """Of a clip, scored by themselves."""

    def given_of(self, rows: slice) -> tuple[Given | None, Mapping[Modality, Tensor] | None]:
        """What is given of some of the clips."""
        if self.given is None or self.clean is None:
            return None, None
        video, audio = (None if mask is None else mask[rows] for mask in (self.given.video, self.given.audio))
        return Given(video, audio), {m: clean[rows] for m, clean in self.clean.items()}


def check_tasks(settings: Any, latent_frames: int) -> None:
    """Hold `conf/evaluation` against clips of so many latent frames.

    Raises:
        UserError: no task is named, or one twice; something is given of clips longer than the real ones, or a beginning
            of those of one latent frame.
    """
    names = list(settings.tasks)
    if not names or len(set(names)) < len(names):
        raise UserError(f"evaluation.tasks is {names}; expected some of {', '.join(TASKS)}, each once")
    others = [name for name in names if name != JOINT]
    if others and settings.length != 1:
        raise UserError(
            f"evaluation.tasks has {others[0]}, whose clips have a length of their own, and evaluation.length is "
            f"{settings.length:g}: use evaluation.length=1 (evaluation.long is the length of {' and '.join(LONG)})"
        )
    split = [name for name in names if name in ("beginning", *LONG)]
    if split and latent_frames < 2:
        raise UserError(
            f"evaluation.tasks has {split[0]}, and these clips have one latent frame: leave {split[0]} out"
        )


def evaluation_tasks(
    settings: Any, real: ClipSet, latent_shapes: Mapping[str, Sequence[int]], codec: Any
) -> list[EvaluationTask]:
    """The tasks that `evaluation.tasks` names, in that order.

    Args:
        settings: `conf/evaluation`, checked by `check_tasks`.
        real: the first `num_clips` real evaluation clips. Tasks in which something is given have the first `num_given`,
            long ones the captions of the first `num_long`.
        latent_shapes: of a clip as trained on.
        codec: of the run's data.
    """
    names = list(settings.tasks)
    made = []
    for number, name in enumerate(names):
        clips, more = real, {}
        shapes: Mapping[str, Sequence[int]] = scaled_shapes(latent_shapes, settings.length)
        if name in GIVEN:
            clips = real[: settings.num_given]
            more = _given(name, clips, codec, settings.beginning)
        elif name in LONG:
            clips = real[: settings.num_long]
            shapes, more = _long(name, clips, latent_shapes, codec, settings)
        benchmark, folder = "" if names == [JOINT] else name, f"{FOLDER}/{name}" if number else ""
        made.append(EvaluationTask(name, clips, benchmark, folder, shapes, **more))
    return made


def _given(name: str, real: ClipSet, codec: Any, beginning: float) -> dict[str, Any]:
    """What a task gives of clips, and the parts that are scored by themselves."""
    video_NCFhw, audio_NLC = codec.encode(real.frames_NTHWC, real.waves_NS)
    clean: dict[Modality, Tensor] = {"video": video_NCFhw, "audio": audio_NLC}
    clips, frames, tokens = len(real), video_NCFhw.shape[2], audio_NLC.shape[1]
    if name == "video_given":
        return {"given": Given(video=_first(clips, frames, frames)), "clean": clean}
    if name == "audio_given":
        return {"given": Given(audio=_first(clips, tokens, tokens)), "clean": clean}
    until = min(max(round(beginning * frames), 1), frames - 1)
    seconds = real.frames_NTHWC.shape[1] / real.fps
    share = _frames_in(until, codec.video) / _frames_in(frames, codec.video)
    given = Given(_first(clips, until, frames), _first(clips, int(share * tokens + 1e-6), tokens))
    return {"given": given, "clean": clean, "parts": [Part("continued", [(share * seconds, seconds)])]}


def _long(
    name: str, real: ClipSet, latent_shapes: Mapping[str, Sequence[int]], codec: Any, settings: Any
) -> tuple[Mapping[str, Sequence[int]], dict[str, Any]]:
    """The latent shapes of long clips, or of their windows, and the parts that windows add."""
    frames, tokens = latent_shapes["video"][1], latent_shapes["audio"][0]
    whole = scaled_shapes(latent_shapes, settings.long, "evaluation.long")
    shared = min(max(round(settings.overlap * frames), 1), frames - 1)
    windows = Windows.over(
        whole["video"][1], {"video": frames, "audio": tokens}, shared, tokens_per_frame=tokens / frames
    )
    seams = [_frames_in(at, codec.video) / real.fps for at in windows.seams("video")]
    borders = [0.0, *seams, _frames_in(windows.total("video"), codec.video) / real.fps]
    parts = [Part(f"window_{n}", [span]) for n, span in enumerate(pairwise(borders), 1)]
    around = [(at - AROUND_SEAM, at + AROUND_SEAM) for at in seams]
    more: dict[str, Any] = {"parts": [*parts, Part("seams", around)] if seams else parts}
    return (latent_shapes, {**more, "windows": windows}) if name == WINDOWS else (whole, more)


def _frames_in(latent_frames: int, codec: Any) -> int:
    """Frames of the picture that the first latent frames hold."""
    alone = int(codec.first_frame_alone)
    return alone + (latent_frames - alone) * int(codec.strides[0])


def _first(clips: int, count: int, of: int) -> Mask:
    """[N, X], True at the first `count` of each clip's frames or tokens."""
    mask_NX: Mask = np.zeros((clips, of), dtype=bool)
    mask_NX[:, :count] = True
    return mask_NX
