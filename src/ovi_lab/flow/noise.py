"""The noise a sample begins with: a clip's own, by its seed and modality, whatever batch it is in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovi_lab.common.seeding import generator_for
from ovi_lab.errors import UserError

CONVENTIONS = ("named", "reference")


def noise_for(
    seed: int,
    shape: Sequence[int],
    modality: str,
    *,
    convention: str = "named",
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal noise, float32 of `shape`, of one clip.

    Args:
        seed: of the clip.
        shape: of one clip's latents: [C, F, H, W] or [L, C].
        modality: `video` or `audio`.
        convention: `named` draws each modality from a generator of its own; `reference` seeds the generators
            of both modalities alike, as the released sampling code does: its seeds give its noise.
        device: where the noise is drawn; other devices draw other numbers.
    """
    if convention not in CONVENTIONS:
        raise UserError(f"noise convention is {convention!r}; expected one of {', '.join(CONVENTIONS)}")
    if convention == "reference":
        generator = torch.Generator(device).manual_seed(seed)
    else:
        generator = generator_for(seed, "sampling noise", modality, device=device)
    return torch.randn(tuple(shape), generator=generator, device=device)


def noise_batch(
    seeds: Sequence[int],
    shape: Sequence[int],
    modality: str,
    *,
    convention: str = "named",
    device: torch.device | str = "cpu",
) -> Tensor:
    """The noise of one clip a seed, [B, *shape]; see `noise_for`."""
    return torch.stack([noise_for(s, shape, modality, convention=convention, device=device) for s in seeds])
