"""What a clip asks of the parts beside its size: what is given of it, and the windows that it is made in.

Lengths are pairs of latent frames and audio tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.sampling.bundle import Formats
from ovi_lab.sampling.long_clips import whole_formats
from ovi_lab.sampling.pipeline import Plan

Lengths = tuple[int, int]
"""Latent frames, audio tokens."""


@dataclass(frozen=True)
class AskedOf:
    """What is given of a clip, and its windows.

    Memory depends on how much is given, not on where it is: it counts as given at the beginning.
    """

    leads: tuple[Lengths, ...] = ((0, 0),)
    """How much is given of a window, for each kind of window: of each modality nothing, a part, or all."""
    total: Lengths | None = None
    """Of the clip, where that is not the model's own."""
    windows: int = 1
    shared: int = 0
    """Latent frames that one window shares with the next, at most; 0 with one window."""
    image: bool = False
    """Whether the first frame is given, as an image."""
    frames: int = 0
    """Of a given picture; they are encoded, and kept until the clip is finished."""
    samples: int = 0
    """Likewise of a given sound."""
    frames_replaced: bool = False
    """Whether a part of the frames that are made is replaced by those of a file."""

    @classmethod
    def by(cls, plan: Plan, formats: Formats) -> AskedOf:
        """What a plan asks of a model whose clips, or windows, have these formats, both modalities."""
        clip = whole_formats(formats, plan.windows)
        files = {} if plan.given is None else plan.given.parts
        video, audio = files.get("video"), files.get("audio")
        return cls(
            leads=_of_each_kind(_of_windows(plan, formats), _lengths(formats)),
            total=None if plan.windows is None else _lengths(clip),
            windows=1 if plan.windows is None else plan.windows.count,
            shared=_shared(plan),
            image=plan.request.image is not None,
            frames=0 if video is None else clip.frames_before(video.spans[-1][1]),
            samples=0 if audio is None else audio.spans[-1][1] * formats.token_samples,
            frames_replaced=video is not None and not video.whole and plan.request.keep_given,
        )

    @classmethod
    def most(cls, clips: Iterable[AskedOf], formats: Formats) -> AskedOf:
        """The most that any of several clips asks for, of each kind; they are made one after the other."""
        several = list(clips)
        totals = [one.total for one in several if one.total is not None]
        return cls(
            leads=_of_each_kind((lead for one in several for lead in one.leads), _lengths(formats)),
            total=max(totals, default=None),
            windows=max(one.windows for one in several),
            shared=max(one.shared for one in several),
            image=any(one.image for one in several),
            frames=max(one.frames for one in several),
            samples=max(one.samples for one in several),
            frames_replaced=any(one.frames_replaced for one in several),
        )


def _lengths(formats: Formats) -> Lengths:
    return formats.shapes["video"][1], formats.shapes["audio"][0]


def _shared(plan: Plan) -> int:
    windows = plan.windows
    if windows is None:
        return 0
    return max((windows.overlap("video", n) for n in range(1, windows.count)), default=0)


def _of_each_kind(leads: Iterable[Lengths], own: Lengths) -> tuple[Lengths, ...]:
    """Of each kind of window the most that is given, if no other kind takes as much: where a part is given more is
    computed than where nothing is. Windows of which all is given are not sampled.
    """
    most: dict[tuple[int, int], Lengths] = {}
    for lead in leads:
        video, audio = ((n > 0) + (n == length) for n, length in zip(lead, own, strict=True))
        if (video, audio) != (2, 2):
            most[video, audio] = max(most.get((video, audio), (0, 0)), lead)

    def less(kind: tuple[int, int], other: tuple[int, int]) -> bool:
        return kind != other and all(a == b or (a, b) == (0, 1) for a, b in zip(kind, other, strict=True))

    return tuple(lead for kind, lead in most.items() if not any(less(kind, other) for other in most))


def _of_windows(plan: Plan, formats: Formats) -> Iterator[Lengths]:
    clip = whole_formats(formats, plan.windows)
    masks = {m: np.zeros(n, dtype=bool) for m, n in zip(MODALITIES, _lengths(clip), strict=True)}
    if plan.given is not None:
        for modality, part in plan.given.parts.items():
            masks[modality] = part.mask[0]
    if plan.request.image is not None:
        masks["video"][0] = True
    if plan.windows is None:
        yield int(masks["video"].sum()), int(masks["audio"].sum())
        return
    for window in range(plan.windows.count):
        counts: dict[Modality, int] = {}
        for modality, mask in masks.items():
            own = mask[plan.windows.span(modality, window)].copy()
            own[: plan.windows.overlap(modality, window)] = True
            counts[modality] = int(own.sum())
        yield counts["video"], counts["audio"]
