"""What of a batch is given rather than generated: the one type of it, for training and for sampling.

Shapes: B clips, F latent frames, L audio tokens, N either; latents are [B, C, F, H, W] and [B, L, C], or lists of
clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.models.config import Modality
from ovi_lab.models.embeddings import Latents
from ovi_lab.models.rope import from_host

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Given:
    """Which latent frames and audio tokens of each clip are given, and which modalities a clip lacks.

    What is given holds the clean latent, stands at t = 0 and has no loss. A modality that a clip lacks is read by
    nothing and has no loss, so that the clip's other tower computes what it would compute alone; its place in the
    batch may hold any finite latents. (A modality that the whole batch lacks is not passed to the model at all.)

    Masks are NumPy arrays: which computation a batch needs is known without asking the device. Frames and tokens past
    the end of a shorter clip are False. UserError for arrays of another kind.
    """

    video: Mask | None = None
    """bool [B, F]; None where no frame is given."""
    audio: Mask | None = None
    """bool [B, L]; None where no token is given."""
    no_video: Mask | None = None
    """bool [B]; None where no clip lacks its picture."""
    no_audio: Mask | None = None
    """bool [B]; None where no clip lacks its sound."""

    def __post_init__(self) -> None:
        expected = {"video": 2, "audio": 2, "no_video": 1, "no_audio": 1}
        for name, dim in expected.items():
            mask = getattr(self, name)
            if mask is not None and not (
                isinstance(mask, np.ndarray) and mask.dtype == bool and mask.ndim == dim
            ):
                kind = f"{mask.dtype} {list(mask.shape)}" if hasattr(mask, "dtype") else type(mask).__name__
                shape = "[clips, frames or tokens]" if dim == 2 else "[clips]"
                raise UserError(f"given {name} is {kind}; expected a NumPy array of bool {shape}")

    @classmethod
    def first_frame(cls, video: Latents, clips: Sequence[bool] | None = None) -> Given:
        """The first latent frame of each clip of `video`, or of those that are True in `clips`."""
        mask_BF = np.zeros((len(video), max(frames_of(video, "video"))), dtype=bool)
        mask_BF[:, 0] = True if clips is None else clips
        return cls(video=mask_BF)

    def only(self, modality: Modality) -> Given:
        """What is given of one modality, for its tower alone."""
        return Given(video=self.video) if modality == "video" else Given(audio=self.audio)

    def mask(self, modality: Modality) -> Mask | None:
        """[B, N] of a modality; None where nothing of it is given."""
        return self.video if modality == "video" else self.audio

    def lacking(self, modality: Modality) -> Mask | None:
        """[B], True at clips without this modality; None where no clip lacks it."""
        return self.no_video if modality == "video" else self.no_audio

    def whole(self, modality: Modality, lengths: Sequence[int]) -> Mask:
        """[B], True at clips of which all frames or tokens of a modality are given."""
        mask_BN = self.mask(modality)
        if mask_BN is None:
            return np.zeros(len(lengths), dtype=bool)
        check_mask(mask_BN, modality, lengths)
        whole_B: Mask = mask_BN.sum(axis=1) == np.asarray(lengths)
        return whole_B

    def all_given(self, modality: Modality, lengths: Sequence[int]) -> bool:
        """Whether nothing of a modality is left to generate in any clip."""
        return bool(self.whole(modality, lengths).all())

    def scored(self, modality: Modality, lengths: Sequence[int]) -> Mask | None:
        """[B, N], True at frames or tokens that have a loss; None where all have."""
        mask_BN, lacking_B = self.mask(modality), self.lacking(modality)
        if mask_BN is None and lacking_B is None:
            return None
        if mask_BN is not None:
            check_mask(mask_BN, modality, lengths)
        longest = max(lengths)
        scored_BN: Mask = np.ones((len(lengths), longest), dtype=bool) if mask_BN is None else ~mask_BN
        if min(lengths) < longest:
            scored_BN &= np.arange(longest) < np.asarray(lengths)[:, None]
        return scored_BN if lacking_B is None else scored_BN & ~lacking_B[:, None]

    def hold(
        self, modality: Modality, latents: Tensor | list[Tensor], clean: Latents
    ) -> Tensor | list[Tensor]:
        """The latents with those of `clean` where they are given; in the form in which they came."""
        mask_BN = self.mask(modality)
        if mask_BN is None:
            return latents
        check_mask(mask_BN, modality, frames_of(latents, modality))
        if isinstance(latents, Tensor) and isinstance(clean, Tensor):
            return torch.where(over_latents(mask_BN, latents), clean.to(latents), latents)
        held: list[Tensor] = []
        for mask_N, own, kept in zip(mask_BN, latents, clean, strict=True):
            length = own.shape[1 if modality == "video" else 0]
            held.append(torch.where(over_latents(mask_N[None, :length], own[None])[0], kept.to(own), own))
        return held

    def repeated(self, passes: int) -> Given:
        """The same clips in several passes at once."""
        masks = (self.video, self.audio, self.no_video, self.no_audio)
        return Given(*(None if m is None else np.concatenate([m] * passes) for m in masks))


def frames_of(latents: Latents, modality: Modality) -> list[int]:
    """Latent frames, or audio tokens, of each clip of a batch."""
    axis = 1 if modality == "video" else 0
    if isinstance(latents, Tensor):
        return [latents.shape[axis + 1]] * len(latents)
    return [clip.shape[axis] for clip in latents]


def check_mask(mask_BN: Mask, modality: Modality, lengths: Sequence[int]) -> None:
    """Raises UserError unless a mask is of as many clips and frames (or tokens) as the batch is."""
    expected = [len(lengths), max(lengths)]
    if list(mask_BN.shape) != expected:
        unit = "frames" if modality == "video" else "tokens"
        raise UserError(
            f"what is given of the {modality} is marked for {list(mask_BN.shape)} clips and {unit}; expected {expected}"
        )


def over_latents(mask_BN: Mask, latents: Tensor) -> Tensor:
    """A mask [B, N] as one that broadcasts to latents [B, C, F, H, W] or [B, L, C], on their device."""
    mask = from_host(mask_BN, latents.device)
    return mask[:, None, :, None, None] if latents.dim() == 5 else mask[:, :, None]
