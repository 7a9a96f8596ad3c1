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
        first_2 = torch.arange(2, device=self.rows.device)[:, None]
        return (self.rows.view(len(self.mask), 1, -1) % 2 == first_2).float()

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
    x_BSND = _spans(x_BLD, rows)
    base = _of_spans(base, rows) if vectors else base.view(x_BSND.shape)
    return torch.addcmul(base, x_BSND, _of_spans(factor_B2D, rows)).view(x_BLD.shape)


def _spans(x_BLD: Tensor, rows: Tensor) -> Tensor:
    """[B, S, tokens of a span, D]."""
    B, _, D = x_BLD.shape
    return x_BLD.reshape(B, len(rows) // B, -1, D)


def _of_spans(vectors_B2D: Tensor, rows: Tensor) -> Tensor:
    """[B, S, 1, D], the vectors of each span."""
    B, _, D = vectors_B2D.shape
    return vectors_B2D.reshape(2 * B, D).index_select(0, rows).view(B, -1, 1, D)


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
        (gradient_BLD,), needed = gradients, ctx.needs_input_grad
        x_BLD, factor_B2D, rows, owners_B2S = ctx.saved_tensors
        gradient = _spans(gradient_BLD, rows)

        def of_vectors(values_BSND: Tensor) -> Tensor:
            """[B, 2, D]: the sums over the tokens of each vector."""
            if values_BSND.shape[2] == 1:
                return torch.bmm(owners_B2S.to(values_BSND.dtype), values_BSND.squeeze(2))
            return torch.bmm(owners_B2S, values_BSND.sum(dim=2, dtype=torch.float32))

        of_base, of_x, of_factor = None, None, None
        if needed[0]:
            of_base = of_vectors(gradient) if ctx.vectors else gradient_BLD
        if needed[1]:
            of_x = (gradient * _of_spans(factor_B2D, rows)).view(x_BLD.shape)
        if needed[2]:
            of_factor = of_vectors(gradient * _spans(x_BLD, rows))
        return of_base, of_x, of_factor, None, None, None
