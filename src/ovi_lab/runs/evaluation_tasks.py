"""What a trained model is evaluated on: clips from their captions alone, and clips of which a part is given.

The given part is that of the real evaluation clips, as the codec encodes it. Shape suffixes: N clips, C channels, F h w
latent frames, rows, columns, L audio tokens, X either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ovi_eval.ball.parts import Part
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.results.find_runs import TASKS as FOLDER
from ovi_lab.errors import UserError
from ovi_lab.models.config import Modality
from ovi_lab.models.given import Given, Mask

JOINT, SOUND_FIRST = FROM_CAPTIONS = ("joint", "sound_first")
"""From captions alone: picture and sound at once, or the sound alone and then the picture to it."""
TASKS = (*FROM_CAPTIONS, "video_given", "audio_given", "beginning")


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
    given: Given | None = None
    clean: Mapping[Modality, Tensor] | None = None
    """What is given of the clips, see `flow.sample`; None where nothing is."""
    parts: Sequence[Part] = ()
    """Of a clip, scored by themselves."""

    @property
    def from_captions(self) -> bool:
        """Whether nothing of the real clips is given."""
        return self.name in FROM_CAPTIONS

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
    others = [name for name in names if name not in FROM_CAPTIONS]
    if others and settings.length != 1:
        raise UserError(
            f"evaluation.tasks has {others[0]} and evaluation.length is {settings.length:g}, and the real clips, of "
            "which a part is given, are as long as those trained on: use evaluation.length=1"
        )
    if "beginning" in names and latent_frames < 2:
        raise UserError(
            "evaluation.tasks has beginning, and these clips have one latent frame: leave beginning out"
        )


def evaluation_tasks(settings: Any, real: ClipSet, codec: Any) -> list[EvaluationTask]:
    """The tasks that `evaluation.tasks` names, in that order.

    Args:
        settings: `conf/evaluation`, checked by `check_tasks`.
        real: the first `num_clips` real evaluation clips; tasks in which something is given have the first `num_given`.
        codec: of the run's data.
    """
    names = list(settings.tasks)
    return [
        EvaluationTask(
            name, own, "" if names == [JOINT] else name, f"{FOLDER}/{name}" if number else "", *given
        )
        for number, name in enumerate(names)
        for own in [real if name in FROM_CAPTIONS else real[: settings.num_given]]
        for given in [_given(name, own, codec, settings.beginning)]
    ]


def _given(
    name: str, real: ClipSet, codec: Any, beginning: float
) -> tuple[Given | None, Mapping[Modality, Tensor] | None, Sequence[Part]]:
    """What a task gives of clips, and the parts that are scored by themselves."""
    if name in FROM_CAPTIONS:
        return None, None, ()
    video_NCFhw, audio_NLC = codec.encode(real.frames_NTHWC, real.waves_NS)
    clean: dict[Modality, Tensor] = {"video": video_NCFhw, "audio": audio_NLC}
    frames, tokens = video_NCFhw.shape[2], audio_NLC.shape[1]
    if name == "video_given":
        return Given(video=_first(len(real), frames, frames)), clean, ()
    if name == "audio_given":
        return Given(audio=_first(len(real), tokens, tokens)), clean, ()
    until = min(max(round(beginning * frames), 1), frames - 1)
    share = _frames_in(until, codec.video) / _frames_in(frames, codec.video)
    seconds = real.frames_NTHWC.shape[1] / real.fps
    given = Given(_first(len(real), until, frames), _first(len(real), int(share * tokens + 1e-6), tokens))
    return given, clean, [Part("continued", [(share * seconds, seconds)])]


def sound_given(audio_NLC: Tensor) -> tuple[Given, Mapping[Modality, Tensor]]:
    """`given` and `clean` of clips whose sound is there."""
    clips, tokens, _ = audio_NLC.shape
    return Given(audio=_first(clips, tokens, tokens)), {"audio": audio_NLC}


def _frames_in(latent_frames: int, codec: Any) -> int:
    """Frames of the picture that the first latent frames hold."""
    alone = int(codec.first_frame_alone)
    return alone + (latent_frames - alone) * int(codec.strides[0])


def _first(clips: int, count: int, of: int) -> Mask:
    """[N, X], True at the first `count` of each clip's frames or tokens."""
    mask_NX: Mask = np.zeros((clips, of), dtype=bool)
    mask_NX[:, :count] = True
    return mask_NX
