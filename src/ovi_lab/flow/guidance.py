"""Classifier-free guidance of each modality, with blocks left out of the negative pass where wanted.

guided = negative + g (positive - negative) (Ho and Salimans, arXiv 2207.12598), g of its own for video and
audio; skip-layer guidance leaves blocks out of the negative pass. Where the two passes need the same blocks
they run as one batch of twice the size; where texts are long (`LONG_TEXT`), what no text has reached is computed once
for both.

Where a part of one modality is given, `given_guidance` g moves the other away from what it would be without it:
guided + (g - 1) (positive - positive of its tower alone), the same rule with the given modality as the condition.

Shapes: B batch, N text tokens, E text width; latents are [B, C, F, H, W] and [B, L, C].
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.flow.settings import SamplerSettings
from ovi_lab.models import TextContext, TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.models.given import Given
from ovi_lab.models.given_context import GivenContext
from ovi_lab.models.rope import from_host

TextBatch = Tensor | Sequence[Tensor]
"""One text a clip: a list of [n, E], or [B, n, E]; or one text for all clips: a list of one."""

Velocities = dict[Modality, Tensor]


@dataclass(frozen=True)
class Texts:
    """The embedded texts of a batch of clips."""

    positive: TextBatch
    """For both towers, or for the video tower alone."""
    negative_video: TextBatch | None = None
    """Needed where the guidance of video is not 1."""
    negative_audio: TextBatch | None = None
    positive_audio: TextBatch | None = None
    """For the audio tower, where it reads another text."""

    def positive_of(self, modality: Modality) -> TextBatch:
        """The positive texts of one modality."""
        own = self.positive_audio if modality == "audio" else None
        return self.positive if own is None else own

    def negative(self, modality: Modality) -> TextBatch | None:
        """The negative texts of one modality."""
        return self.negative_video if modality == "video" else self.negative_audio


class GuidedVelocity:
    """The guided velocity of a batch at any time.

    Args:
        model: whose velocity.
        modalities: those that are sampled; the other tower does not run.
        batch_size: clips.
        texts: positive and negative ones. A modality that needs no negative text but shares the negative pass with
            one that does reads its positive text there.
        settings: guidance, and whether passes share a batch and what is the same in each is kept.
        given: what is given of the clips; latents that are given wholly are the same in every call.
    """

    def __init__(
        self,
        model: TwinDiT,
        modalities: Sequence[Modality],
        batch_size: int,
        texts: Texts,
        settings: SamplerSettings,
        given: Given | None = None,
    ) -> None:
        self.model, self.settings, self.given = model, settings, given or Given()
        self.batch_size = batch_size
        self.guided = [m for m in modalities if settings.guidance(m) != 1.0]
        self.batched = bool(self.guided) and settings.batch_passes and not settings.skip_layers
        self.positive: dict[Modality, list[Tensor] | TextContext] = {}
        self.negative: dict[Modality, list[Tensor] | TextContext] = {}
        self._unchanging: dict[str, dict[Modality, GivenContext]] = {}
        for modality in modalities:
            positives = _one_each(texts.positive_of(modality), batch_size, "text")
            negative = texts.negative(modality)
            if modality in self.guided and negative is None:
                raise UserError(
                    f"{modality} guidance is {settings.guidance(modality)} without a negative {modality} text; "
                    "give one, or set the guidance to 1"
                )
            negatives = positives
            if negative is not None:
                negatives = _one_each(negative, batch_size, f"negative {modality} text")
            if self.batched:
                self.positive[modality] = self._cached([*positives, *negatives], modality)
                continue
            self.positive[modality] = self._cached(positives, modality)
            if self.guided:
                self.negative[modality] = self._cached(negatives, modality)

    def _cached(self, texts: list[Tensor], modality: Modality) -> list[Tensor] | TextContext:
        return self.model.prepare_text(texts, modality) if self.settings.cache_text else texts

    def _read(self, texts: list[Tensor] | TextContext, modality: Modality) -> TextContext:
        """The texts as a pass reads them; without the cache each block computes its own keys and values."""
        return self.model.prepare_text(texts, modality, key_values=False)

    def __call__(self, latents: Velocities, time: Tensor) -> Velocities:
        """Float32 velocities in the shapes of `latents` at the scalar `time` (0 to 1000).

        A modality of which all is given has none.
        """
        given = self.given
        if not self.guided:
            high = self._predict("positive", latents, self.positive, time, given)
            return self._following(high, high, latents, time)
        if self.batched:
            passes, twice = 2, latents
            if not self.model.shares_opening:
                twice, passes = {m: torch.cat([x, x]) for m, x in latents.items()}, 1
                given = given.repeated(2)
            both = self._predict("both", twice, self.positive, time, given, passes=passes)
            high, low = ({m: v.chunk(2)[i] for m, v in both.items()} for i in (0, 1))
        else:
            skip = self.settings.skip_layers
            high = self._predict("positive", latents, self.positive, time, given)
            low = self._predict("negative", latents, self.negative, time, given, skip)
        guided = {
            m: low[m] + self.settings.guidance(m) * (high[m] - low[m]) if m in self.guided else high[m]
            for m in high
        }
        return self._following(guided, high, latents, time)

    def _following(
        self, guided: Velocities, high: Velocities, latents: Velocities, time: Tensor
    ) -> Velocities:
        """`guided` with its guidance by what is given of the other modality; `high` is the positive pass.

        guided + (g - 1) (high - alone), where `alone` is what the tower predicts of the positive text without the
        other modality.
        """
        g = self.settings.given_guidance
        if g == 1.0 or len(latents) < 2:
            return guided
        for modality in high:
            other: Modality = "audio" if modality == "video" else "video"
            mask_BN = self.given.mask(other)
            if mask_BN is None or not mask_BN.any() or not self.model.fusion_config.reads_other(modality):
                continue
            text = self.positive[modality]
            own = text.of_first(self.batch_size) if isinstance(text, TextContext) else text[: self.batch_size]
            alone = self._predict(
                modality, {modality: latents[modality]}, {modality: own}, time, self.given.only(modality)
            )
            step = (g - 1.0) * (high[modality] - alone[modality])
            clips_B = mask_BN.any(axis=1)
            if not clips_B.all():
                follows_B = from_host(clips_B, step.device)
                step = torch.where(follows_B.view(-1, *[1] * (step.dim() - 1)), step, 0.0)
            guided = guided | {modality: guided[modality] + step}
        return guided

    def _predict(
        self,
        name: str,
        latents: Velocities,
        texts: dict[Modality, list[Tensor] | TextContext],
        time: Tensor,
        given: Given,
        skip_layers: Collection[int] = (),
        passes: int = 1,
    ) -> Velocities:
        """The model's prediction in the pass `name`."""
        read = {m: self._read(t, m) for m, t in texts.items()}
        if self.settings.cache_given and name not in self._unchanging:
            self._unchanging[name] = self.model.prepare_given(latents, read, given, skip_layers, passes)
        inputs = {**latents, **self._unchanging.get(name, {})}
        out = self.model(
            inputs.get("video"),
            inputs.get("audio"),
            t_video=time,
            t_audio=time,
            text_video=read.get("video"),
            text_audio=read.get("audio"),
            given=given,
            skip_layers=skip_layers,
            passes=passes,
        )
        return {m: v.float() for m in latents if (v := getattr(out, m)) is not None}


def _one_each(texts: TextBatch, batch_size: int, what: str) -> list[Tensor]:
    """One text a clip; a list of one serves all."""
    texts = list(texts)
    if len(texts) == 1:
        texts *= batch_size
    if len(texts) != batch_size:
        raise UserError(
            f"{what} holds {len(texts)} texts for {batch_size} clips; give one a clip, or one for all"
        )
    return texts
