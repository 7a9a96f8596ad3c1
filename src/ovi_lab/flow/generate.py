"""Captions in, latents out: the settings of sampling, and one call for trainers, samplers and scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ovi_lab.errors import UserError
from ovi_lab.flow import noise_batch, sample
from ovi_lab.models import TwinDiT


@dataclass(frozen=True)
class SamplerSettings:
    """How latents are integrated from noise; the defaults suit the ball world, `sampler=ovi` the released model."""

    solver: str = "unipc"
    steps: int = 12
    shift: float = 5.0
    video_guidance: float = 1.0
    audio_guidance: float = 1.0
    negative_video: str = ""
    negative_audio: str = ""
    skip_layers: Sequence[int] = field(default_factory=tuple)


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
    made = sample(
        model,
        noise.get("video"),
        noise.get("audio"),
        text=text_encoder(list(captions)),
        negative_text_video=text_encoder([settings.negative_video]),
        negative_text_audio=text_encoder([settings.negative_audio]),
        solver=settings.solver,
        steps=settings.steps,
        shift=settings.shift,
        video_guidance=settings.video_guidance,
        audio_guidance=settings.audio_guidance,
        skip_layers=settings.skip_layers,
        on_step=on_step,
    )
    return made.video, made.audio
