"""The straight path between data and noise, and the times at which training looks at it.

Rectified flow (Liu et al., arXiv 2209.03003; Lipman et al., arXiv 2210.02747): x_sigma = (1 - sigma) x +
sigma n, sigma from 0 (data) to 1 (noise); the model learns its velocity n - x and gets t = 1000 sigma.

Shapes: B batch, ... whatever a clip's latents have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from ovi_lab.common.fields import checked
from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError
from ovi_lab.models.given import Mask, over_latents

MODEL_TIME = 1000.0
"""The model's timestep is this times sigma."""

DISTRIBUTIONS = ("uniform", "logit_normal", "shifted")


@overload
def interpolate(
    clean: Tensor, noise: Tensor, sigma_B: Tensor, given: Mask | None = None
) -> tuple[Tensor, Tensor]: ...
@overload
def interpolate(
    clean: Sequence[Tensor], noise: Sequence[Tensor], sigma_B: Tensor, given: Mask | None = None
) -> tuple[list[Tensor], list[Tensor]]: ...
def interpolate(
    clean: Tensor | Sequence[Tensor],
    noise: Tensor | Sequence[Tensor],
    sigma_B: Tensor,
    given: Mask | None = None,
) -> tuple[Tensor | list[Tensor], Tensor | list[Tensor]]:
    """The point on the path and the velocity there, both in the form of `clean`.

    Args:
        clean, noise: Tensor [B, ...], or a list of B clips of any shapes.
        sigma_B: one sigma a clip, 0 to 1.
        given: bool [B, N], True at latent frames (of [C, F, H, W]) or tokens (of [L, C]) that stay clean; None: none.
    """
    if sigma_B.shape != (len(clean),) or len(noise) != len(clean):
        raise UserError(
            f"{len(clean)} clips came with {len(noise)} noises and sigmas of shape {list(sigma_B.shape)}; "
            "expected as many of each"
        )
    if isinstance(clean, Tensor) and isinstance(noise, Tensor):
        sigma = sigma_B.to(clean).reshape(-1, *[1] * (clean.dim() - 1))
        if given is not None:
            sigma = sigma * over_latents(~given, clean)
        return torch.lerp(clean, noise, sigma), noise - clean
    points: list[Tensor] = []
    for index, (x, n, s) in enumerate(zip(clean, noise, sigma_B, strict=True)):
        sigma = s.to(x)
        if given is not None:
            length = x.shape[1 if x.dim() == 4 else 0]
            sigma = sigma * over_latents(~given[index : index + 1, :length], x[None])[0]
        points.append(torch.lerp(x, n, sigma))
    return points, [n - x for x, n in zip(clean, noise, strict=True)]


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """shift * sigma / (1 + (shift - 1) * sigma): more of the path near noise (arXiv 2403.03206)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


@dataclass(frozen=True)
class TimestepSampler:
    """Where on the path each clip of a training batch stands.

    `uniform`: sigma ~ U(0, 1); `logit_normal`: sigmoid(N(mean, std)); `shifted`: a uniform sigma
    moved towards noise by `shift`, as in the samplers' schedules. UserError for other names and values.
    """

    distribution: str = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 5.0
    shared: bool = True
    """Both modalities of a clip stand at one sigma (the paper); False draws one for each."""

    def __post_init__(self) -> None:
        checked(Literal[DISTRIBUTIONS], self.distribution, "timesteps.distribution")
        check_settings("timesteps", vars(self))

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sigma of the video and of the audio, float32 [B] each, on the generator's device."""
        sigma_video_B = self._draw(batch_size, generator)
        return sigma_video_B, sigma_video_B if self.shared else self._draw(batch_size, generator)

    def _draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        if self.distribution == "logit_normal":
            normal_B = torch.randn(batch_size, generator=generator, device=generator.device)
            return torch.sigmoid(self.mean + self.std * normal_B)
        uniform_B = torch.rand(batch_size, generator=generator, device=generator.device)
        return uniform_B if self.distribution == "uniform" else shift_sigma(uniform_B, self.shift)
