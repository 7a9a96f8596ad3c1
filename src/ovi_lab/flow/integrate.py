"""From noise to latents: one loop over the solver's steps for video with sound, video alone or sound alone.

Shapes: B batch; video [B, C, F, H, W], audio [B, L, C].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.flow.guidance import GuidedVelocity, Texts, Velocities
from ovi_lab.flow.settings import SamplerSettings
from ovi_lab.flow.solvers import build_solver
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import MODALITIES, Modality
from ovi_lab.models.given import Given, check_mask, frames_of


@dataclass(frozen=True)
class SampledLatents:
    """float32 latents in the shapes of the noise; None where a modality was not sampled."""

    video: Tensor | None
    audio: Tensor | None


@torch.no_grad()
def sample(
    model: TwinDiT,
    noise: Mapping[Modality, Tensor],
    texts: Texts,
    settings: SamplerSettings,
    *,
    given: Given | None = None,
    clean: Mapping[Modality, Tensor] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> SampledLatents:
    """Integrates the model's velocity from noise to latents.

    Args:
        model: on any device; it is run in evaluation mode and left in the mode it was in.
        noise: where each modality begins (see `noise_batch`); one alone samples that modality alone.
        texts: embedded; one a clip, or one for all.
        settings: solver and guidance; each modality has a solver of its own, at the same times.
        given: which latent frames and audio tokens are given: they are those of `clean` before every step and after
            the last, and their tokens have t = 0. A modality of which all is given takes no steps.
        clean: latents in the shape of the noise of each modality of which something is given; the rest of them is not
            read.
        on_step: called with the number of steps done and of all steps.

    Inside `ovi_lab.models.sequence_parallel.sequence_parallel(model, group)` every process of the group calls this
    with the same arguments, works on its share of the tokens, and gets the whole latents.

    The same noise, texts and settings give the same latents. Raises UserError for settings that do not fit.
    """
    latents: Velocities = {m: noise[m].float() for m in MODALITIES if m in noise}
    if not latents:
        raise UserError("neither video nor audio noise was given; give noise of what is to be sampled")
    given, clean = given or Given(), clean or {}
    kept = _kept(given, clean, latents)
    first = next(iter(latents.values()))
    if model.sharding is not None:
        model.sharding.check_same([*latents.values(), *kept.values()])
    was_training = model.training
    model.eval()
    try:
        velocity = GuidedVelocity(model, list(latents), first.shape[0], texts, settings, given)
        solvers = {
            m: build_solver(settings.solver, settings.steps, settings.shift, first.device) for m in latents
        }
        times = next(iter(solvers.values())).timesteps
        for done, time in enumerate(times, start=1):
            latents = _held(latents, given, kept)
            velocities = velocity(latents, time)
            latents |= {m: solvers[m].step(v, time, latents[m]) for m, v in velocities.items()}
            if on_step is not None:
                on_step(done, len(times))
        latents = _held(latents, given, kept)
    finally:
        model.train(was_training)
    return SampledLatents(latents.get("video"), latents.get("audio"))


def first_frame_given(frame: Tensor, video: Tensor) -> tuple[Given, dict[Modality, Tensor]]:
    """`given` and `clean` of `sample` for a first latent frame [B, C, 1, H, W] of video noise [B, C, F, H, W].

    Raises UserError for a frame of another shape.
    """
    expected = [*video.shape[:2], 1, *video.shape[3:]]
    if list(frame.shape) != expected:
        raise UserError(f"the first frame has shape {list(frame.shape)}; expected {expected}")
    return Given.first_frame(video), {"video": torch.cat([frame, torch.zeros_like(video[:, :, 1:])], dim=2)}


def _held(latents: Velocities, given: Given, kept: Mapping[Modality, Tensor]) -> Velocities:
    """The latents with those that are given in their place."""
    held = {m: given.hold(m, latents[m], clean) for m, clean in kept.items()}
    return latents | {m: x for m, x in held.items() if isinstance(x, Tensor)}


def _kept(given: Given, clean: Mapping[Modality, Tensor], noise: Velocities) -> dict[Modality, Tensor]:
    """The clean latents of modalities of which something is given; UserError where they do not fit the noise."""
    kept: dict[Modality, Tensor] = {}
    for modality in MODALITIES:
        mask_BN = given.mask(modality)
        if mask_BN is None or not mask_BN.any():
            continue
        if modality not in noise:
            raise UserError(
                f"a part of the {modality} is given without {modality} noise; give both, or neither"
            )
        expected = list(noise[modality].shape)
        found = list(clean[modality].shape) if modality in clean else None
        if found != expected:
            raise UserError(
                f"the given {modality} latents have shape {found}; expected {expected}, as the noise"
            )
        check_mask(mask_BN, modality, frames_of(noise[modality], modality))
        kept[modality] = clean[modality].to(noise[modality])
    if kept and all(given.all_given(m, frames_of(x, m)) for m, x in noise.items()):
        raise UserError(
            "all of the clip is given, and nothing is left to generate; leave out what is to be made"
        )
    return kept
