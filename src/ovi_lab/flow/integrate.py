"""From noise to latents: one loop over the solver's steps for video with sound, video alone or sound alone.

Shapes: B batch; video [B, C, F, H, W], audio [B, L, C], a given first frame [B, C, 1, H, W].
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
    first_frame: Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> SampledLatents:
    """Integrates the model's velocity from noise to latents.

    Args:
        model: on any device; it is run in evaluation mode and left in the mode it was in.
        noise: where each modality begins (see `noise_batch`); one alone samples that modality alone.
        texts: embedded; one a clip, or one for all.
        settings: solver and guidance; each modality has a solver of its own, at the same times.
        first_frame: first latent frame of every clip, given: it is inserted before every step and after the
            last, and its tokens have t = 0.
        on_step: called with the number of steps done and of all steps.

    Inside `ovi_lab.models.sequence_parallel.sequence_parallel(model, group)` every process of the group calls this
    with the same arguments, works on its share of the tokens, and gets the whole latents.

    The same noise, texts and settings give the same latents. Raises UserError for settings that do not fit.
    """
    latents: Velocities = {m: noise[m].float() for m in MODALITIES if m in noise}
    if not latents:
        raise UserError("neither video nor audio noise was given; give noise of what is to be sampled")
    _check_first_frame(first_frame, noise.get("video"))
    first = next(iter(latents.values()))
    if model.sharding is not None:
        model.sharding.check_same([*latents.values(), *([] if first_frame is None else [first_frame])])
    was_training = model.training
    model.eval()
    try:
        velocity = GuidedVelocity(model, list(latents), first.shape[0], texts, settings)
        solvers = {
            m: build_solver(settings.solver, settings.steps, settings.shift, first.device) for m in latents
        }
        times = next(iter(solvers.values())).timesteps
        for done, time in enumerate(times, start=1):
            _put_first_frame(latents, first_frame)
            velocities = velocity(latents, time, first_frame is not None)
            latents = {m: solvers[m].step(velocities[m], time, x) for m, x in latents.items()}
            if on_step is not None:
                on_step(done, len(times))
        _put_first_frame(latents, first_frame)
    finally:
        model.train(was_training)
    return SampledLatents(latents.get("video"), latents.get("audio"))


def _put_first_frame(latents: Velocities, first_frame: Tensor | None) -> None:
    if first_frame is not None:
        video = latents["video"]
        latents["video"] = torch.cat([first_frame.to(video), video[:, :, 1:]], dim=2)


def _check_first_frame(first_frame: Tensor | None, video_noise: Tensor | None) -> None:
    if first_frame is None:
        return
    if video_noise is None:
        raise UserError("a first frame was given without video noise; give both, or neither")
    expected = [*video_noise.shape[:2], 1, *video_noise.shape[3:]]
    if list(first_frame.shape) != expected:
        raise UserError(f"the first frame has shape {list(first_frame.shape)}; expected {expected}")
