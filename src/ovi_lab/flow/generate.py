"""Captions in, latents out: one call for trainers, samplers and scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, noise_batch, sample
from ovi_lab.models import TwinDiT


@torch.no_grad()
def generate_latents(
    model: TwinDiT,
    text_encoder: nn.Module | None,
    captions: Sequence[str],
    seeds: Sequence[int],
    shapes: Mapping[str, Sequence[int]],
    settings: SamplerSettings,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Latents of one batch of captions.

    Args:
        model, text_encoder: trained; left in the mode they were in.
        captions: B prompts.
        seeds: of each clip's noise; a clip is the same in any batch.
        shapes: of one clip's latents, for the modalities that are wanted.
        settings: solver, steps, guidance.
        on_step: called with steps done and steps in all.

    Returns:
        Video [B,C,F,H,W] and audio [B,L,C]; None for a modality that was not wanted.

    Raises:
        UserError: there is no text encoder, or the settings do not fit.
    """
    if text_encoder is None:
        raise UserError("sampling from captions needs a text encoder: choose text=…")
    device = next(model.parameters()).device
    # drawn on the CPU, so that a GPU samples the same clip as a laptop
    noise = {m: noise_batch(seeds, shape, m).to(device) for m, shape in shapes.items()}
    texts = Texts(
        *(text_encoder(list(t)) for t in (captions, [settings.negative_video], [settings.negative_audio]))
    )
    made = sample(model, noise, texts, settings, on_step=on_step)
    return made.video, made.audio
