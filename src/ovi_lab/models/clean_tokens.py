"""Clips whose tokens stand at two timesteps, t = 0 and their own, and the modulation that has vectors for both.

The vectors of each token are looked up while they are applied, one row of a small table a token, or a frame where all
tokens of a frame are alike. That costs the same whatever is given, and no more of memory than without: of what comes
in, the backward pass keeps nothing else.

Shapes: B clips, L tokens, D width, S spans of equal length that a clip's tokens are divided into, each clean or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovi_lab.models.rope import from_host


@dataclass(frozen=True)
class CleanTokens:
    """Which tokens of a batch are clean."""

    mask: NDArray[np.bool_]
    """bool [B, S], on the host."""
    rows: Tensor
    """int64 [B S], of each span the row among the 2 B vectors: those of t = 0 and of its own timestep, clip by clip."""

    @classmethod
    def of(cls, mask_BS: NDArray[np.bool_], device: torch.device) -> CleanTokens:
        """Those of a mask."""
        rows_BS = 2 * np.arange(len(mask_BS))[:, None] + ~mask_BS
        return cls(mask_BS, from_host(rows_BS.reshape(-1), device))

    @cached_property
    def owners(self) -> Tensor:
        """float32 [B, 2, S], 1 at the vector of each span: its product with values of the spans sums those of each."""
        both_B2S = np.stack([self.mask, ~self.mask], axis=1)
        return from_host(both_B2S.astype(np.float32), self.rows.device)

    def repeated(self, passes: int) -> CleanTokens:
        """The tokens of the same clips in several passes at once."""
        rows = torch.cat([self.rows + 2 * n * len(self.mask) for n in range(passes)])
        return CleanTokens(np.concatenate([self.mask] * passes), rows)

    def share(self, begin: int, length: int) -> CleanTokens:
        """Those among `length` tokens of each clip from `begin` on, none past a clip's last; of spans of one token."""
        own_BS = np.zeros((len(self.mask), length), dtype=bool)
        part = self.mask[:, begin : begin + length]
        own_BS[:, : part.shape[1]] = part
        return CleanTokens.of(own_BS, self.rows.device)


def modulate(base: Tensor, x_BLD: Tensor, factor_B2D: Tensor, clean: CleanTokens, vectors: bool) -> Tensor:
    """base + x * factor, with the first vector of each clip at clean tokens and the second at others.

    `base` is a stream [B, L, D] or, with `vectors`, two vectors as well, [B, 2, D].
    """
    # As `multiply_add`: the compiler makes gradients of the formula by itself.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Modulate.apply(base, x_BLD, factor_B2D, clean.rows, clean.owners, vectors)
    return _modulate(base, x_BLD, factor_B2D, clean.rows, vectors)


def _modulate(base: Tensor, x_BLD: Tensor, factor_B2D: Tensor, rows: Tensor, vectors: bool) -> Tensor:
    factor = _of_spans(factor_B2D, rows, x_BLD)
    if vectors:
        base = _of_spans(base, rows, x_BLD)
    if factor.shape == x_BLD.shape:
        return torch.addcmul(base, x_BLD, factor, out=_reusable(factor, x_BLD, base))
    x_BSND = _spans(x_BLD, factor)
    return torch.addcmul(base if vectors else _spans(base, factor), x_BSND, factor).view(x_BLD.shape)


def _of_spans(vectors_B2D: Tensor, rows: Tensor, like_BLD: Tensor) -> Tensor:
    """The vectors of each span: [B, L, D] where every token is one, else [B, S, 1, D]."""
    B, L, D = like_BLD.shape
    found = vectors_B2D.reshape(2 * B, D).index_select(0, rows)
    return found.view(B, L, D) if found.shape[0] == B * L else found.view(B, -1, 1, D)


def _spans(x_BLD: Tensor, vectors_BS1D: Tensor) -> Tensor:
    """[B, S, tokens of a span, D]."""
    B, _, D = x_BLD.shape
    return x_BLD.reshape(B, vectors_BS1D.shape[1], -1, D)


def _reusable(looked_up: Tensor, *others: Tensor) -> Tensor | None:
    """Vectors looked up, one a token, as the place for a result of these; None where it would not fit.

    On a CPU a fresh stream costs as much as what is computed into it.
    """
    if torch.is_grad_enabled() or {t.dtype for t in others} != {looked_up.dtype}:
        return None
    return looked_up


class _Modulate(torch.autograd.Function):
    """`_modulate`, whose backward pass looks the vectors up again rather than keeping them for every token."""

    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor,
        x_BLD: Tensor,
        factor_B2D: Tensor,
        rows: Tensor,
        owners_B2S: Tensor,
        vectors: bool,
    ) -> Tensor:
        ctx.save_for_backward(x_BLD, factor_B2D, rows, owners_B2S)
        ctx.vectors = vectors
        return _modulate(base, x_BLD, factor_B2D, rows, vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), needed = gradients, ctx.needs_input_grad
        x, factor_B2D, rows, owners_B2S = ctx.saved_tensors
        one_a_token = owners_B2S.shape[2] == x.shape[1]
        of_base, of_x, of_factor = None, None, None
        if needed[1]:
            factor = _of_spans(factor_B2D, rows, x)
            if one_a_token:
                of_x = torch.mul(gradient, factor, out=_reusable(factor, gradient))
            else:
                of_x = (_spans(gradient, factor) * factor).view(x.shape)
        if needed[0]:
            of_base = _sums(owners_B2S, gradient, one_a_token) if ctx.vectors else gradient
        if needed[2]:
            of_factor = _sums(owners_B2S, gradient * x, one_a_token)
        return of_base, of_x, of_factor, None, None, None


def _sums(owners_B2S: Tensor, values_BLD: Tensor, one_a_token: bool) -> Tensor:
    """[B, 2, D]: the sums over the tokens of each vector."""
    if one_a_token:
        return torch.bmm(owners_B2S.to(values_BLD.dtype), values_BLD)
    B, _, D = values_BLD.shape
    spans_BSD = values_BLD.reshape(B, owners_B2S.shape[2], -1, D).sum(dim=2, dtype=torch.float32)
    return torch.bmm(owners_B2S, spans_BSD)
