"""Classifier-free guidance of each modality, with blocks left out of the negative pass where wanted.

guided = negative + g (positive - negative) (Ho and Salimans, arXiv 2207.12598), g of its own for video and
audio; skip-layer guidance leaves blocks out of the negative pass. Where the two passes need the same blocks
they run as one batch of twice the size. What does not change from step to step is done once; each such saving
can be switched off, so that its effect can be measured.

Shapes: B batch, N text tokens, E text width; latents are [B, C, F, H, W] and [B, L, C].
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.models import TextContext, TwinDiT
from ovi_lab.models.config import MODALITIES, Modality

Texts = Tensor | Sequence[Tensor]
"""One text a clip: a list of [n, E], or [B, n, E]; or one text for all clips: a list of one."""

Velocities = dict[Modality, Tensor]


@dataclass(frozen=True)
class Guidance:
    """How strongly each modality follows its text; 1 is the model's own prediction, without negative pass."""

    video: float = 1.0
    audio: float = 1.0
    skip_layers: tuple[int, ...] = ()
    """Blocks left out in the negative pass."""
    batch_passes: bool = True
    """Run both passes as one batch where they need the same blocks (more memory, less time)."""
    cache_text: bool = True
    """Embed texts, and make every block's keys and values of them, once a clip and not in every pass (the kept
    keys and values take 2 x blocks x text_len x dim numbers a text and tower)."""
    merge_padding: bool = False
    """Attend to a text's padding, whose tokens are all alike, as to two keys with its joint weight, not as to
    text_len minus n (fewer keys in every block; rounding differs)."""

    share_opening: bool = False
    """Where both passes run as one batch: embed the latents, and run the first block's self-attention, once for
    both, since no text has reached them yet (rounding differs)."""

    def __post_init__(self) -> None:
        for modality in MODALITIES:
            if not math.isfinite(self.scale(modality)):
                raise UserError(f"{modality} guidance is {self.scale(modality)}; expected a finite number")

    def scale(self, modality: Modality) -> float:
        """The strength of one modality."""
        return self.video if modality == "video" else self.audio


class GuidedVelocity:
    """The guided velocity of a batch at any time; `guidance` says what is done once, here.

    Args:
        model: whose velocity.
        modalities: those that are sampled; the other tower does not run.
        batch_size: clips.
        text: positive texts, for both towers.
        negatives: negative texts of each modality; needed where its guidance is not 1. A modality that needs
            none but shares the negative pass with one that does reads its positive text there.
        guidance: strengths, and the savings.
    """

    def __init__(
        self,
        model: TwinDiT,
        modalities: Sequence[Modality],
        batch_size: int,
        text: Texts,
        negatives: dict[Modality, Texts | None],
        guidance: Guidance,
    ) -> None:
        self.model = model
        self.guidance = guidance
        self.guided = [m for m in modalities if guidance.scale(m) != 1.0]
        self.batched = bool(self.guided) and guidance.batch_passes and not guidance.skip_layers
        self.positive: dict[Modality, list[Tensor] | TextContext] = {}
        self.negative: dict[Modality, list[Tensor] | TextContext] = {}
        positives = _one_each(text, batch_size, "text")
        for modality in modalities:
            negative = negatives.get(modality)
            if modality in self.guided and negative is None:
                raise UserError(
                    f"{modality} guidance is {guidance.scale(modality)} without a negative {modality} text; "
                    "give one, or set the guidance to 1"
                )
            low = positives
            if negative is not None:
                low = _one_each(negative, batch_size, f"negative {modality} text")
            if self.batched:
                self.positive[modality] = self._kept([*positives, *low], modality)
                continue
            self.positive[modality] = self._kept(positives, modality)
            if self.guided:
                self.negative[modality] = self._kept(low, modality)

    def _kept(self, texts: list[Tensor], modality: Modality) -> list[Tensor] | TextContext:
        """What is kept of the texts from pass to pass."""
        if not self.guidance.cache_text:
            return texts
        return self.model.prepare_text(texts, modality, merge_padding=self.guidance.merge_padding)

    def _read(self, texts: list[Tensor] | TextContext, modality: Modality) -> TextContext:
        """The kept texts as a pass reads them; without the cache each block makes its own keys and values."""
        if isinstance(texts, TextContext):
            return texts
        merge = self.guidance.merge_padding
        return self.model.prepare_text(texts, modality, merge_padding=merge, key_values=False)

    def __call__(self, latents: Velocities, time: Tensor, first_frame_is_clean: bool) -> Velocities:
        """Float32 velocities in the shapes of `latents` at the scalar `time` (0 to 1000)."""
        if not self.guided:
            return self._predict(latents, self.positive, time, first_frame_is_clean, ())
        if self.batched:
            passes = 2
            if not self.guidance.share_opening:
                latents, passes = {m: torch.cat([x, x]) for m, x in latents.items()}, 1
            both = self._predict(latents, self.positive, time, first_frame_is_clean, (), passes)
            high, low = ({m: v.chunk(2)[i] for m, v in both.items()} for i in (0, 1))
        else:
            skip = self.guidance.skip_layers
            high = self._predict(latents, self.positive, time, first_frame_is_clean, ())
            low = self._predict(latents, self.negative, time, first_frame_is_clean, skip)
        return {
            m: low[m] + self.guidance.scale(m) * (high[m] - low[m]) if m in self.guided else high[m]
            for m in high
        }

    def _predict(
        self,
        latents: Velocities,
        texts: dict[Modality, list[Tensor] | TextContext],
        time: Tensor,
        first_frame_is_clean: bool,
        skip_layers: Collection[int],
        passes: int = 1,
    ) -> Velocities:
        read = {m: self._read(t, m) for m, t in texts.items()}
        out = self.model(
            latents.get("video"),
            latents.get("audio"),
            t_video=time,
            t_audio=time,
            text_video=read.get("video"),
            text_audio=read.get("audio"),
            first_frame_is_clean=first_frame_is_clean,
            skip_layers=skip_layers,
            passes=passes,
        )
        return {m: getattr(out, m).float() for m in latents}


def _one_each(text: Texts, batch_size: int, what: str) -> list[Tensor]:
    """One text a clip; a list of one serves all."""
    texts = list(text)
    if len(texts) == 1:
        texts *= batch_size
    if len(texts) != batch_size:
        raise UserError(
            f"{what} holds {len(texts)} texts for {batch_size} clips; give one a clip, or one for all"
        )
    return texts
