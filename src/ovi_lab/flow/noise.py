"""The noise a sample begins with: a clip's own, by its seed and modality, whatever batch it is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    window: int = 0,
) -> Tensor:
    """Standard normal noise, float32 of `shape`, of one clip.

    Args:
        seed: of the clip.
        shape: of one clip's latents: [C, F, H, W] or [L, C].
        modality: `video` or `audio`.
        convention: `named` draws each modality from a generator of its own; `reference` seeds the generators
            of both modalities alike, as the released sampling code does: its seeds give its noise.
        device: where the noise is drawn; other devices draw other numbers.
        window: of a long clip (see `sample_windows`). The first one's noise is that of a clip of its length; each
            further one has a generator of its own, in either convention.
    """
    if convention not in CONVENTIONS:
        raise UserError(f"noise convention is {convention!r}; expected one of {', '.join(CONVENTIONS)}")
    if window:
        generator = generator_for(seed, "sampling noise", modality, "window", window, device=device)
    elif convention == "reference":
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
    window: int = 0,
) -> Tensor:
    """The noise of one clip a seed, [B, *shape]; see `noise_for`."""
    how: dict[str, Any] = {"convention": convention, "device": device, "window": window}
    return torch.stack([noise_for(s, shape, modality, **how) for s in seeds])
