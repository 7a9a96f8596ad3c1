"""The three normalisations of a tower and the modulation by the timestep.

Normalisations are evaluated in float32, whatever the type of the stream, by kernels that read and write it in its own
type.

Shapes: B batch, L tokens, D width, S spans of equal length that a clip's tokens are divided into, each with a timestep
of its own (1, or the video's frames when the first of them is clean).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovi_lab.models.clean_tokens import CleanTokens, modulate


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Any [..., D] to the same shape and type."""
        weight = self.weight
        if weight.dtype == x.dtype:
            return F.rms_norm(x, (self.dim,), weight, self.eps)
        # Autocast: the kernel takes one type only.
        return F.rms_norm(x.float(), (self.dim,), weight.float(), self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation with weight and bias (Ba et al., arXiv 1607.06450)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Any [..., D] to the same shape and type."""
        return layer_norm(x, self.weight, self.bias, self.eps)


def layer_norm(x: Tensor, weight_D: Tensor | None, bias_D: Tensor | None, eps: float) -> Tensor:
    """Layer normalisation over the last dimension in float32, of the type of `x`."""
    types = {t.dtype for t in (weight_D, bias_D) if t is not None}
    if types <= {x.dtype}:
        return F.layer_norm(x, x.shape[-1:], weight_D, bias_D, eps).to(x.dtype)
    weight, bias = (None if t is None else t.float() for t in (weight_D, bias_D))
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)


class AdaptiveLayerNorm(nn.Module):
    """Layer normalisation whose weight and bias the timestep sets (adaLN): LN(x) (1 + scale) + shift."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(
        self, x_BLD: Tensor, shift: Tensor, scale: Tensor, clean: CleanTokens | None = None
    ) -> Tensor:
        """[B, L, D]; `shift` and `scale` are [1 or B, S, D], or [B, L, D]; with `clean` [B, 2, D]."""
        if shift.shape[:2] == (1, 1) and scale.dtype == x_BLD.dtype:
            # One timestep for all: weight and bias of the normalisation, which is then one kernel each way.
            return layer_norm(x_BLD, 1 + scale[0, 0], shift[0, 0], self.eps)
        normal_BLD = layer_norm(x_BLD, None, None, self.eps)
        if clean is not None:
            return modulate(shift, normal_BLD, 1 + scale, clean, vectors=True)
        return multiply_add(shift, normal_BLD, 1 + scale)


class Modulation(nn.Module):
    """A block's own offset of the shift, scale and gate vectors that the timestep sets (adaLN)."""

    def __init__(self, dim: int, count: int = 6) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.empty(1, count, dim))

    def forward(self, e0_BS6D: Tensor) -> tuple[Tensor, ...]:
        """The `count` vectors, each [B, S, D]: one for every distinct timestep, not one for every token."""
        return (e0_BS6D + self.modulation).unbind(dim=2)


def per_frame(vectors: Tensor, clean: Tensor) -> Tensor:
    """Of two vectors [B, 2, D] the first for each frame marked in `clean` [1, F, 1], else the second: [B, F, D]."""
    return torch.where(clean, vectors[:, :1], vectors[:, 1:])


def multiply_add(base: Tensor, x_BLD: Tensor, factor: Tensor, clean: CleanTokens | None = None) -> Tensor:
    """base + x * factor, where `base` and `factor` have one vector a token, a span [B, S, D], or a clip [B, 1, D].

    With `clean`, `base` is a stream and `factor` has two vectors a clip: see `modulate`.
    """
    if clean is not None:
        return modulate(base, x_BLD, factor, clean, vectors=False)
    L, S = x_BLD.shape[1], factor.shape[1]
    if S in (1, L):
        return _multiply_add(base, x_BLD, factor)

    def spanned(t: Tensor) -> Tensor:
        return t.unflatten(1, (S, -1)) if t.shape[1] == L else t[:, :, None]

    return _multiply_add(spanned(base), spanned(x_BLD), spanned(factor)).flatten(1, 2)


def _multiply_add(base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    # The compiler has no need of the function below: it makes gradients of the formula and joins what they need.
    own = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return _MultiplyAdd.apply(base, x, factor) if own else torch.addcmul(base, x, factor)


class _MultiplyAdd(torch.autograd.Function):
    """addcmul, whose own backward pass multiplies `x` by one first: a pass over the whole stream for nothing."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(x, factor)
        ctx.base_shape = base.shape
        return torch.addcmul(base, x, factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, factor), needed = gradients, ctx.saved_tensors, ctx.needs_input_grad
        return (
            gradient.sum_to_size(ctx.base_shape) if needed[0] else None,
            (gradient * factor).sum_to_size(x.shape) if needed[1] else None,
            (gradient * x).sum_to_size(factor.shape) if needed[2] else None,
        )
