"""The three normalisations of a tower and the modulation by the timestep.

All are evaluated in float32, whatever the type of the stream, and cast back.

Shapes: B batch, L tokens, D width, T distinct timesteps of a clip (1, or 2 when its first frame is clean).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Any [..., D] to the same shape and type."""
        x_32 = x.float()
        inverse = torch.rsqrt(x_32.square().mean(dim=-1, keepdim=True) + self.eps)
        return (x_32 * inverse).to(x.dtype) * self.weight


class LayerNorm(nn.Module):
    """Layer normalisation, with weight and bias (`affine`) or without (Ba et al., arXiv 1607.06450)."""

    def __init__(self, dim: int, eps: float, affine: bool) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim)) if affine else None
        self.bias = nn.Parameter(torch.empty(dim)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Any [..., D] to the same shape and type."""
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), (self.dim,), weight, bias, self.eps).to(x.dtype)


class Modulation(nn.Module):
    """A block's own offset of the shift, scale and gate vectors that the timestep sets (adaLN)."""

    def __init__(self, dim: int, count: int = 6) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.empty(1, count, dim))

    def forward(self, e0_BT6D: Tensor) -> tuple[Tensor, ...]:
        """The `count` vectors, each [B, T, D]: one for every distinct timestep, not one for every token."""
        return (e0_BT6D + self.modulation).unbind(dim=2)


def per_token(vector_BTD: Tensor, clean_BL1: Tensor | None) -> Tensor:
    """What every token gets of a vector made per distinct timestep.

    With one timestep a clip the vector broadcasts as it is. With two, the tokens marked in `clean_BL1` get
    the first and the others the second.
    """
    if clean_BL1 is None:
        return vector_BTD
    return torch.where(clean_BL1, vector_BTD[:, :1], vector_BTD[:, 1:])


def modulate(x_BLD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift."""
    return torch.addcmul(shift, x_BLD, 1 + scale)
