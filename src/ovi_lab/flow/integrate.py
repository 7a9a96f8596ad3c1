"""From noise to latents: one loop over the solver's steps for video with sound, video alone or sound alone.

Shapes: B batch; video [B, C, F, H, W], audio [B, L, C], a given first frame [B, C, 1, H, W].
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.flow.guidance import Guidance, GuidedVelocity, Texts, Velocities
from ovi_lab.flow.solvers import build_solver
from ovi_lab.models import TwinDiT
from ovi_lab.models.config import Modality


@dataclass(frozen=True)
class SampledLatents:
    """float32 latents in the shapes of the noise; None where a modality was not sampled."""

    video: Tensor | None
    audio: Tensor | None


@torch.no_grad()
def sample(
    model: TwinDiT,
    video_noise: Tensor | None = None,
    audio_noise: Tensor | None = None,
    *,
    text: Texts,
    negative_text_video: Texts | None = None,
    negative_text_audio: Texts | None = None,
    solver: str = "unipc",
    steps: int = 50,
    shift: float = 5.0,
    video_guidance: float = 1.0,
    audio_guidance: float = 1.0,
    skip_layers: Collection[int] = (),
    batch_passes: bool = True,
    cache_text: bool = True,
    merge_padding: bool = False,
    share_opening: bool = False,
    first_frame: Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> SampledLatents:
    """Integrates the model's velocity from noise to latents.

    Args:
        model: on any device; it is run in evaluation mode and left in the mode it was in.
        video_noise, audio_noise: where each begins (see `noise_batch`); None samples the other alone.
        text: for both towers: one text a clip (list of [n, E] or [B, n, E]), or a list of one for all.
        negative_text_video, negative_text_audio: likewise; needed where that guidance is not 1.
        solver, steps, shift: see `build_solver`; each modality has a solver of its own, at the same times.
        video_guidance, audio_guidance, skip_layers: see `Guidance`.
        batch_passes, cache_text, merge_padding, share_opening: what is done once instead of again, see
            `Guidance`; the model's own savings are set by `TwinDiT.set_savings`. None changes the latents by more
            than rounding; those that are off by default round otherwise than the plain computation.
        first_frame: first latent frame of every clip, given: it is put in before every step and after the
            last, and its tokens are told t = 0.
        on_step: called with the number of steps done and of all steps.

    Inside `ovi_lab.models.sequence_parallel.sequence_parallel(model, group)` every process of the group calls this
    with the same arguments, works on its share of the tokens, and gets the whole latents.

    The same noise, texts and settings give the same latents. Raises UserError for settings that do not fit.
    """
    latents: Velocities = {}
    if video_noise is not None:
        latents["video"] = video_noise.float()
    if audio_noise is not None:
        latents["audio"] = audio_noise.float()
    if not latents:
        raise UserError("neither video nor audio noise was given; give noise of what is to be sampled")
    _check_first_frame(first_frame, video_noise)
    guidance = Guidance(
        video_guidance,
        audio_guidance,
        tuple(skip_layers),
        batch_passes=batch_passes,
        cache_text=cache_text,
        merge_padding=merge_padding,
        share_opening=share_opening,
    )
    negatives: dict[Modality, Texts | None] = {"video": negative_text_video, "audio": negative_text_audio}
    first = next(iter(latents.values()))
    if model.sharding is not None:
        model.sharding.check_same([*latents.values(), *([] if first_frame is None else [first_frame])])
    was_training = model.training
    model.eval()
    try:
        velocity = GuidedVelocity(model, list(latents), first.shape[0], text, negatives, guidance)
        solvers = {m: build_solver(solver, steps, shift, first.device) for m in latents}
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
