"""Clips whose tokens stand at two timesteps, t = 0 and their own, and the modulation that has vectors for both.

The vector of each token, or of each frame where all tokens of a frame are alike, is taken while it is applied, with a
weight of 0 or 1 between the clip's two. That costs the same whatever is given, and no more of memory than without: of
what comes in, the backward pass keeps nothing else.

Shapes: B clips, L tokens, D width, S spans of equal length that a clip's tokens are divided into, each clean or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovi_lab.models.rope import from_host
from ovi_lab.models.some_clips import SomeClips


@dataclass(frozen=True)
class CleanTokens:
    """Which tokens of a batch are clean."""

    mask: NDArray[np.bool_]
    """bool [B, S], on the host."""
    weights: Tensor
    """[B, S, 1], 1 at clean spans and 0 at others: weights between a clip's two vectors, giving either unrounded."""
    owners: Tensor
    """float32 [B, 2, S], 1 at the vector of each span: its product with values of the spans sums those of each."""

    @classmethod
    def of(
        cls, mask_BS: NDArray[np.bool_], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> CleanTokens:
        """Those of a mask; `dtype`: of the vectors that are weighted."""
        owners_B2S = np.empty((len(mask_BS), 2, mask_BS.shape[1]), dtype=np.float32)
        owners_B2S[:, 0], owners_B2S[:, 1] = mask_BS, ~mask_BS
        owners = from_host(owners_B2S, device)
        return cls(mask_BS, owners[:, 0, :, None].to(dtype), owners)

    def repeated(self, passes: int) -> CleanTokens:
        """The tokens of the same clips in several passes at once."""
        return CleanTokens.of(np.concatenate([self.mask] * passes), self.weights.device, self.weights.dtype)

    def of_clips(self, clips: SomeClips) -> CleanTokens:
        """The tokens of some of the clips."""
        mask = self.mask[list(clips.numbers)]
        return CleanTokens(mask, clips.take(self.weights), clips.take(self.owners))

    def share(self, begin: int, length: int) -> CleanTokens:
        """Those among `length` tokens of each clip from `begin` on, none past a clip's last; of spans of one token."""
        own_BS = np.zeros((len(self.mask), length), dtype=bool)
        part = self.mask[:, begin : begin + length]
        own_BS[:, : part.shape[1]] = part
        return CleanTokens.of(own_BS, self.weights.device, self.weights.dtype)


def modulate(base: Tensor, x_BLD: Tensor, factor_B2D: Tensor, clean: CleanTokens, vectors: bool) -> Tensor:
    """base + x * factor, with the first vector of each clip at clean tokens and the second at others.

    `base` is a stream [B, L, D] or, with `vectors`, two vectors as well, [B, 2, D].
    """
    # As `multiply_add`: the compiler makes gradients of the formula by itself.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Modulate.apply(base, x_BLD, factor_B2D, clean, vectors)
    return _modulate(base, x_BLD, factor_B2D, clean, vectors)


def _modulate(base: Tensor, x_BLD: Tensor, factor_B2D: Tensor, clean: CleanTokens, vectors: bool) -> Tensor:
    factor = _of_spans(factor_B2D, clean)
    if clean.mask.shape[1] == x_BLD.shape[1]:
        base = _of_spans(base, clean) if vectors else base
        # On a CPU a fresh stream costs as much as what is computed into it: the vectors' place serves for the result.
        reused = base.dtype == x_BLD.dtype == factor.dtype and not torch.is_grad_enabled()
        return torch.addcmul(base, x_BLD, factor, out=factor if reused else None)
    base = _of_spans(base, clean)[:, :, None] if vectors else _spans(base, clean)
    return torch.addcmul(base, _spans(x_BLD, clean), factor[:, :, None]).view(x_BLD.shape)


def _of_spans(vectors_B2D: Tensor, clean: CleanTokens) -> Tensor:
    """The vectors of each span, [B, S, D]."""
    weights = (
        clean.weights if clean.weights.dtype == vectors_B2D.dtype else clean.weights.to(vectors_B2D.dtype)
    )
    return torch.lerp(vectors_B2D[:, 1:], vectors_B2D[:, :1], weights)


def _spans(x_BLD: Tensor, clean: CleanTokens) -> Tensor:
    """[B, S, tokens of a span, D]."""
    B, _, D = x_BLD.shape
    return x_BLD.reshape(B, clean.mask.shape[1], -1, D)


class _Modulate(torch.autograd.Function):
    """`_modulate`, whose backward pass takes the vectors anew rather than keeping them for every token."""

    @staticmethod
    def forward(
        ctx: Any, base: Tensor, x_BLD: Tensor, factor_B2D: Tensor, clean: CleanTokens, vectors: bool
    ) -> Tensor:
        ctx.save_for_backward(x_BLD, factor_B2D)
        ctx.clean, ctx.vectors = clean, vectors
        return _modulate(base, x_BLD, factor_B2D, clean, vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), needed, clean = gradients, ctx.needs_input_grad, ctx.clean
        x, factor_B2D = ctx.saved_tensors
        of_base, of_x, of_factor = None, None, None
        if needed[1] and clean.mask.shape[1] == x.shape[1]:
            factor = _of_spans(factor_B2D, clean)
            of_x = torch.mul(gradient, factor, out=factor if factor.dtype == gradient.dtype else None)
        elif needed[1]:
            of_x = (_spans(gradient, clean) * _of_spans(factor_B2D, clean)[:, :, None]).view(x.shape)
        if needed[0]:
            of_base = _sums(gradient, clean) if ctx.vectors else gradient
        if needed[2]:
            of_factor = _sums(gradient * x, clean)
        return of_base, of_x, of_factor, None, None


def _sums(values_BLD: Tensor, clean: CleanTokens) -> Tensor:
    """[B, 2, D]: the sums over the tokens of each vector."""
    if clean.mask.shape[1] == values_BLD.shape[1]:
        same = values_BLD.dtype == clean.owners.dtype
        return torch.bmm(clean.owners if same else clean.owners.to(values_BLD.dtype), values_BLD)
    return torch.bmm(clean.owners, _spans(values_BLD, clean).sum(dim=2, dtype=torch.float32))
