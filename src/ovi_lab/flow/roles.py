"""Roles in training: what of each clip is given, what is generated, and what is left out, drawn clip by clip.

A model that has seen sound given learns to make its picture, one that has seen a beginning to go on from it; what is
given stands at t = 0 (see `Given`). One training can so serve several tasks with the same weights.

Shapes: B clips, F latent frames, L audio tokens, N either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.models.given import Given, Mask

Lengths = Mapping[Modality, Sequence[int]]
"""Latent frames and audio tokens of each clip, for the modalities that the batch has."""


@dataclass(frozen=True)
class DrawnRoles:
    """The roles of a batch's clips."""

    names: tuple[str, ...]
    """Of each clip."""
    given: Given

    def clips(self, role: str) -> Mask | None:
        """bool [B], the clips of a role; None where it has none."""
        return np.array([name == role for name in self.names]) if role in self.names else None


@dataclass(frozen=True)
class Roles:
    """The share of each role among the clips; they sum to 1.

    `joint` and `independent` generate both modalities, `independent` with a timestep of its own for each. With
    `video_given` and `audio_given` one whole modality is given; with `first_frame` the first latent frame; with
    `beginning` the same seconds of both, from one latent frame to all but one. With `span` a span of the picture, of
    the sound or of both is generated and all else is given. `video_alone` and `audio_alone` leave the other modality
    out.

    Where a batch has one modality, a role that would give nothing, or all, is `joint`.

    UserError for shares below 0 and for those that do not sum to 1.
    """

    joint: float = 1.0
    independent: float = 0.0
    video_given: float = 0.0
    audio_given: float = 0.0
    first_frame: float = 0.0
    beginning: float = 0.0
    span: float = 0.0
    video_alone: float = 0.0
    audio_alone: float = 0.0
    leading: float = 1.0
    """Time that the first latent frame covers, in latent frames: 0.25 where it holds one frame and others four."""

    def __post_init__(self) -> None:
        check_settings("roles", vars(self))
        total = math.fsum(self.shares.values())
        if abs(total - 1) > 1e-6:
            given = ", ".join(f"{name} {share:g}" for name, share in self.shares.items() if share)
            others = total - self.joint
            remedy = f"roles.joint={1 - others:g}" if others <= 1 else "smaller shares"
            raise UserError(f"the shares of roles sum to {total:g} ({given}); expected 1, as with {remedy}")

    @cached_property
    def shares(self) -> dict[str, float]:
        """The share of each role, by name."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self) if f.name != "leading"}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Roles that are drawn, those of share 0 left out."""
        return tuple(name for name, share in self.shares.items() if share)

    @cached_property
    def _bounds(self) -> NDArray[np.float64]:
        """The ends of the drawn roles' shares in [0, 1]."""
        return np.cumsum([self.shares[name] for name in self.names])

    @cached_property
    def gives(self) -> bool:
        """Whether any role gives or leaves out something."""
        return bool(set(self.names) - {"joint", "independent"})

    def draw(self, lengths: Lengths, generator: Callable[[], torch.Generator]) -> DrawnRoles:
        """Roles of a batch and what they give.

        Args:
            lengths: of the clips of the batch.
            generator: makes the generator of these draws; it is not called where one role has the share 1 and draws
                nothing.
        """
        clips = len(next(iter(lengths.values())))
        if self.names == ("joint",):
            return DrawnRoles(("joint",) * clips, Given())
        # One row of numbers a clip, whatever its role: so a clip's role does not move the draws of the next.
        draws_B4 = torch.rand(clips, 4, generator=generator(), dtype=torch.float64).numpy()
        picked = np.searchsorted(self._bounds, draws_B4[:, 0], side="right").tolist()
        names = [self.names[min(i, len(self.names) - 1)] for i in picked]
        masks: dict[Modality, Mask] = {}
        lacking: dict[str, list[int]] = {m: [] for m in MODALITIES}
        for clip, (role, draws) in enumerate(zip(names, draws_B4[:, 1:].tolist(), strict=True)):
            if role in ("joint", "independent"):
                continue
            if role.endswith("_alone"):
                if len(lengths) == 2:
                    lacking["audio" if role == "video_alone" else "video"].append(clip)
                else:
                    names[clip] = "joint"
                continue
            own = {m: counts[clip] for m, counts in lengths.items()}
            spans = self._made(role, own, draws)
            generated = [end - begin for begin, end in spans.values()]
            if max(generated) <= 0 or generated == list(own.values()):  # nothing is, or all
                names[clip] = "joint"
                continue
            for modality, (begin, end) in spans.items():
                if end - begin < own[modality]:
                    if modality not in masks:
                        masks[modality] = np.zeros((clips, max(lengths[modality])), dtype=bool)
                    masks[modality][clip, :begin] = True
                    masks[modality][clip, end : own[modality]] = True
        absent = {m: _marked(own, clips) for m, own in lacking.items()}
        given = Given(masks.get("video"), masks.get("audio"), absent["video"], absent["audio"])
        return DrawnRoles(tuple(names), given)

    def _made(
        self, role: str, own: Mapping[Modality, int], draws: Sequence[float]
    ) -> dict[Modality, tuple[int, int]]:
        """What a role generates of a clip of these lengths, from and to; all else of it is given."""
        if role in ("video_given", "audio_given"):
            return {m: (0, 0 if role == f"{m}_given" else n) for m, n in own.items()}
        if role == "first_frame":
            return {m: (1 if m == "video" else 0, n) for m, n in own.items()}
        if role == "beginning":
            frames = own["video"] if "video" in own else own["audio"]
            until = self._time(1 + int(draws[0] * (frames - 1)), frames) if frames > 1 else 0.0
            return {m: (self._units(m, until, n), n) for m, n in own.items()}
        made = ("video", "audio", "both")[int(draws[0] * 3)]
        begin, end = sorted(draws[1:3])
        spans: dict[Modality, tuple[int, int]] = {}
        for m, n in own.items():
            if made in (m, "both") or len(own) == 1:
                first = self._units(m, begin, n)
                spans[m] = (first, max(first + 1, self._units(m, end, n)))
            else:
                spans[m] = (0, 0)
        return spans

    def _time(self, units: int, of: int) -> float:
        """The share of a clip's time that its first `units` latent frames cover."""
        return (units - 1 + self.leading) / (of - 1 + self.leading)

    def _units(self, modality: Modality, time: float, of: int) -> int:
        """Whole latent frames or tokens within a share of a clip's time; 0 to all but one."""
        units = time * (of - 1 + self.leading) + 1 - self.leading if modality == "video" else time * of
        return min(max(int(units + 1e-6), 0), of - 1)


def _marked(clips: Sequence[int], of: int) -> Mask | None:
    """bool [of], True at these clips; None where there are none."""
    if not clips:
        return None
    marked_B = np.zeros(of, dtype=bool)
    marked_B[list(clips)] = True
    return marked_B
