"""Captions in, latents out: the settings of sampling, and the noise that belongs to each clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ovi_lab.errors import UserError
from ovi_lab.flow import sample
from ovi_lab.models import TwinDiT
from ovi_lab.seeding import generator_for


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


def clip_noise(
    shapes: Mapping[str, Sequence[int]],
    seeds: Sequence[Sequence[int | str]],
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Noise of each clip from its own generator: clip i has the same noise in any batch and beside any other clip.

    Drawn on the CPU, so that a GPU samples the same clip as a laptop.

    Args:
        shapes: of one clip's latents, by modality.
        seeds: coordinates of each clip.
        device: where the noise is wanted.

    Returns:
        Batches [B, *shape] by modality.
    """
    return {
        modality: torch.stack(
            [
                torch.randn(tuple(shape), generator=generator_for(*seed, "sample noise", modality))
                for seed in seeds
            ]
        ).to(device)
        for modality, shape in shapes.items()
    }


@torch.no_grad()
def generate_latents(
    model: TwinDiT,
    text_encoder: nn.Module | None,
    captions: Sequence[str],
    seeds: Sequence[Sequence[int | str]],
    shapes: Mapping[str, Sequence[int]],
    settings: SamplerSettings,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Latents of one batch of captions.

    Args:
        model, text_encoder: trained; left in the mode they were in.
        captions: B prompts.
        seeds: coordinates of each clip's noise.
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
    noise = clip_noise(shapes, seeds, device)
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
