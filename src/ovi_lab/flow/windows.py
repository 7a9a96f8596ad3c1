"""Clips longer than a model was trained on, window by window: each begins with the end of the one before as given.

Every window is a clip of the trained length, at positions that start at 0 as in training. What two windows share is
given to the later one, in both modalities and of the same seconds, so that it goes on from there.

Shapes: B batch, F latent frames and L audio tokens of a window, O of them shared; N of a whole clip. Video latents are
[B, C, F, H, W], audio latents [B, L, C].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.flow.guidance import Texts
from ovi_lab.flow.integrate import SampledLatents, sample
from ovi_lab.flow.settings import SamplerSettings
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.models.given import Given, Mask, check_mask

Again = Callable[[Tensor, int], Tensor]
"""(video latents [B, C, F, H, W] of a window, O) to the latents [B, C, O, H, W] with which a clip begins that shows the
end of that window."""

_AXIS: dict[Modality, int] = {"video": 2, "audio": 1}


@dataclass(frozen=True)
class Windows:
    """Where the windows of a long clip begin.

    Raises UserError where a window does not share a frame and a token with the one before.
    """

    starts: Mapping[Modality, tuple[int, ...]]
    """First latent frame, or audio token, of each window."""
    lengths: Mapping[Modality, int]
    """Latent frames, or audio tokens, of a window."""

    def __post_init__(self) -> None:
        for modality in self.starts:
            for window in range(1, self.count):
                if not 0 < self.overlap(modality, window) < self.lengths[modality]:
                    raise UserError(
                        f"window {window + 1} shares {self.overlap(modality, window)} of {self.lengths[modality]} "
                        f"{_unit(modality)} with the one before; expected at least 1, and fewer than all"
                    )

    @classmethod
    def over(
        cls, total: int, lengths: Mapping[Modality, int], overlap: int, tokens_per_frame: float = 1.0
    ) -> Windows:
        """The windows of a clip; the last one shares more where the clip's length asks for it.

        Args:
            total: latent frames of the clip; audio tokens where there is no video.
            lengths: of a window, which is what the model was trained on.
            overlap: latent frames (or tokens) that each window shares with the one before, at least.
            tokens_per_frame: audio tokens in the time of a latent frame. Windows of sound begin at the nearest token,
                so that picture and sound do not drift apart however many windows there are.

        Raises UserError for a clip shorter than a window and an overlap that is none.
        """
        modality: Modality = "video" if "video" in lengths else "audio"
        length = lengths[modality]
        if total < length:
            raise UserError(f"the clip has {total} {_unit(modality)}; expected at least a window's {length}")
        if not 0 < overlap < length:
            raise UserError(
                f"windows share {overlap} of {length} {_unit(modality)}; expected 1 to {length - 1}"
            )
        begin = (*range(0, total - length, length - overlap), total - length)
        starts: dict[Modality, tuple[int, ...]] = {modality: begin}
        if modality == "video" and "audio" in lengths:
            starts["audio"] = tuple(round(at * tokens_per_frame) for at in begin)
        return cls(starts, dict(lengths))

    @property
    def count(self) -> int:
        """Windows."""
        return len(next(iter(self.starts.values())))

    def total(self, modality: Modality) -> int:
        """Latent frames, or audio tokens, of the whole clip."""
        return self.starts[modality][-1] + self.lengths[modality]

    def overlap(self, modality: Modality, window: int) -> int:
        """How many of its first frames or tokens a window shares with the one before; 0 for the first window."""
        starts = self.starts[modality]
        return starts[window - 1] + self.lengths[modality] - starts[window] if window else 0

    def span(self, modality: Modality, window: int) -> slice:
        """A window's frames or tokens within the clip."""
        start = self.starts[modality][window]
        return slice(start, start + self.lengths[modality])

    def seams(self, modality: Modality) -> list[int]:
        """The first frame or token of the clip that each later window adds."""
        return [self.span(modality, window - 1).stop for window in range(1, self.count)]


def sample_windows(
    model: TwinDiT,
    noise: Sequence[Mapping[Modality, Tensor]],
    texts: Sequence[Texts],
    settings: SamplerSettings,
    windows: Windows,
    *,
    given: Given | None = None,
    clean: Mapping[Modality, Tensor] | None = None,
    again: Again | None = None,
    working: Callable[[], AbstractContextManager[Any]] = nullcontext,
    on_step: Callable[[int, int], None] | None = None,
) -> SampledLatents:
    """The latents of a long clip, of the length of all windows together.

    Args:
        model, settings: as of `sample`.
        noise: of each window (see `noise_batch`); with the first one's, one window is the clip of ordinary length.
        texts: of each window, or one for all.
        windows: where they begin.
        given: what of the whole clip is given besides, such as a beginning or one modality.
        clean: latents of the whole clip's shape, of each modality of which something is given.
        again: makes the latents of what two windows share anew, for codecs whose first latent frame is another than
            those within a clip; None gives the latents as they are. Sound is always given as it is.
        working: entered while a window is sampled, and left before `again` is called.
        on_step: called with the number of steps done and of all windows' steps. A window of which all is given, or
            shared, takes none.

    Raises UserError as `sample`, and for noise, texts or masks that do not fit the windows.
    """
    given, clean = given or Given(), clean or {}
    if len(noise) != windows.count:
        raise UserError(f"noise is given for {len(noise)} windows; expected {windows.count}")
    if len(texts) not in (1, windows.count):
        raise UserError(
            f"{len(texts)} texts are given for {windows.count} windows; give one, or one a window"
        )
    for modality in noise[0]:
        _check_whole(modality, windows, given, clean, noise[0][modality])
    masks = [_given_in(given, windows, window, noise[0]) for window in range(windows.count)]
    steps = settings.steps * sum(not _all_given(mask) for mask in masks)
    done = 0
    parts: dict[Modality, list[Tensor]] = {m: [] for m in MODALITIES if m in noise[0]}
    before: dict[Modality, Tensor] = {}

    def step(_: int, __: int) -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, steps)

    for window, mask in enumerate(masks):
        begin = {m: x.float() for m, x in noise[window].items()}
        known = {m: _known(m, windows, window, clean, before, begin[m], again) for m in parts}
        if _all_given(mask):
            latents = known
        else:
            text = texts[window] if len(texts) > 1 else texts[0]
            with working():
                made = sample(model, begin, text, settings, given=mask, clean=known, on_step=step)
            latents = {m: x for m in parts if (x := getattr(made, m)) is not None}
        for m, own in parts.items():
            shared = windows.overlap(m, window)
            own.append(latents[m].narrow(_AXIS[m], shared, windows.lengths[m] - shared))
        before = latents
    joined = {m: torch.cat(own, dim=_AXIS[m]) for m, own in parts.items()}
    return SampledLatents(joined.get("video"), joined.get("audio"))


def _given_in(given: Given, windows: Windows, window: int, like: Mapping[Modality, Tensor]) -> Given:
    """What is given of one window: what it shares with the one before, and its part of what is given of the clip."""
    masks: dict[Modality, Mask] = {}
    for modality, latents in like.items():
        whole = given.mask(modality)
        own = np.zeros((len(latents), windows.lengths[modality]), dtype=bool)
        if whole is not None:
            own |= whole[:, windows.span(modality, window)]
        own[:, : windows.overlap(modality, window)] = True
        masks[modality] = own
    return Given(masks.get("video"), masks.get("audio"), given.no_video, given.no_audio)


def _all_given(given: Given) -> bool:
    return all(mask.all() for m in MODALITIES if (mask := given.mask(m)) is not None)


def _known(
    modality: Modality,
    windows: Windows,
    window: int,
    clean: Mapping[Modality, Tensor],
    before: Mapping[Modality, Tensor],
    like: Tensor,
    again: Again | None,
) -> Tensor:
    """A window's latents where they are given, anything elsewhere."""
    axis, shared = _AXIS[modality], windows.overlap(modality, window)
    start, length = windows.starts[modality][window], windows.lengths[modality]
    known = torch.zeros_like(like)
    if modality in clean:
        known = clean[modality].to(like).narrow(axis, start, length)
    if not shared:
        return known
    if again is not None and modality == "video":
        lead = again(before[modality], shared).to(like)
    else:
        lead = before[modality].narrow(axis, length - shared, shared)
    return torch.cat([lead, known.narrow(axis, shared, length - shared)], dim=axis)


def _check_whole(
    modality: Modality, windows: Windows, given: Given, clean: Mapping[Modality, Tensor], noise: Tensor
) -> None:
    """Raises UserError where a modality's noise, mask or clean latents do not fit the windows."""
    axis, length, total = _AXIS[modality], windows.lengths[modality], windows.total(modality)
    if noise.shape[axis] != length:
        raise UserError(
            f"a window's {modality} noise has {noise.shape[axis]} {_unit(modality)}; expected {length}"
        )
    if (mask := given.mask(modality)) is not None:
        check_mask(mask, modality, [total] * len(noise))
        expected = [*noise.shape[:axis], total, *noise.shape[axis + 1 :]]
        found = list(clean[modality].shape) if modality in clean else None
        if mask.any() and found != expected:
            raise UserError(f"the given {modality} latents have shape {found}; expected {expected}")


def _unit(modality: Modality) -> str:
    return "latent frames" if modality == "video" else "audio tokens"
