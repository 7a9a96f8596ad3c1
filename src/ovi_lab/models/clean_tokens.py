"""Tokens that stand at t = 0 within clips that otherwise do not, and the modulation that has other vectors for them.

They are few. What is computed with their clip's vectors is replaced at them alone, which costs less than a choice
between two vectors for every token of the batch.

Shapes: B clips, L tokens, D width, N clean tokens, V = B + 1: a vector for each clip, and last the one of t = 0.
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
    """bool [B, L], on the host."""
    at: Tensor
    """int64 [N], their numbers among the B L tokens."""
    clips: Tensor
    """int64 [N], the clip of each."""

    @classmethod
    def of(cls, mask_BL: NDArray[np.bool_], places_2N: Tensor) -> CleanTokens:
        """Those of a mask, given its `places`."""
        return cls(mask_BL, *places_2N.unbind(0))

    @cached_property
    def owners(self) -> Tensor:
        """float32 [V, N]: -1 at each token's clip, and 1 in the last row. Its product with values of the tokens turns
        the sums of all of a clip's into those of the rest, and has the clean ones' sum last."""
        clips_B1 = torch.arange(len(self.mask), device=self.clips.device)[:, None]
        own_BN = (clips_B1 == self.clips).float()
        return torch.cat([-own_BN, own_BN.new_ones(1, len(self.clips))])

    def repeated(self, passes: int) -> CleanTokens:
        """The tokens of the same clips in several passes at once."""
        B, L = self.mask.shape
        at, clips = (
            torch.cat([x + n * step for n in range(passes)])
            for x, step in ((self.at, B * L), (self.clips, B))
        )
        return CleanTokens(np.concatenate([self.mask] * passes), at, clips)

    def share(self, begin: int, length: int) -> CleanTokens:
        """Those among `length` tokens of each clip from `begin` on; past a clip's last token there are none."""
        own_BS = np.zeros((len(self.mask), length), dtype=bool)
        part = self.mask[:, begin : begin + length]
        own_BS[:, : part.shape[1]] = part
        return CleanTokens.of(own_BS, places(own_BS, self.at.device))


def places(mask_BL: NDArray[np.bool_], device: torch.device) -> Tensor:
    """int64 [2, N]: the numbers of a mask's tokens among all, and their clips'."""
    at = np.flatnonzero(mask_BL)
    return from_host(np.stack([at, at // mask_BL.shape[1]]), device)


def modulate(base: Tensor, x_BLD: Tensor, factor_V1D: Tensor, clean: CleanTokens) -> Tensor:
    """base + x * factor, with the last of the vectors at clean tokens and each clip's own at others.

    `base` is a stream [B, L, D], or vectors as well, [V, 1, D].
    """
    vectors = len(base) == len(factor_V1D)
    # As `multiply_add`: the compiler makes gradients of the formula by itself.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Modulate.apply(base, x_BLD, factor_V1D, clean.at, clean.owners, vectors)
    return _modulate(base, x_BLD, factor_V1D, clean.at, vectors)[0]


def _modulate(
    base: Tensor, x_BLD: Tensor, factor_V1D: Tensor, at: Tensor, vectors: bool
) -> tuple[Tensor, Tensor]:
    """The result [B, L, D], and the clean tokens [N, D] of `x`."""
    own_B1D, last_1D = factor_V1D.split([len(factor_V1D) - 1, 1])
    x_ND = _rows(x_BLD, at)
    if vectors:
        base, base_ND = base.split([len(base) - 1, 1])
    else:
        base_ND = _rows(base, at)
    out_BLD = torch.addcmul(base, x_BLD, own_B1D)
    return _with_rows(out_BLD, at, torch.addcmul(base_ND.flatten(0, -2), x_ND, last_1D.flatten(0, 1))), x_ND


def _rows(x_BLD: Tensor, at: Tensor) -> Tensor:
    return x_BLD.flatten(0, 1).index_select(0, at)


def _with_rows(x_BLD: Tensor, at: Tensor, rows_ND: Tensor) -> Tensor:
    """`x` with rows of its B L in their place; `x` is used up."""
    flat = x_BLD.contiguous().flatten(0, 1)
    return flat.index_copy_(0, at, rows_ND.to(flat.dtype)).view(x_BLD.shape)


class _Modulate(torch.autograd.Function):
    """`_modulate`, whose gradients need the stream no more often than without clean tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor,
        x_BLD: Tensor,
        factor_V1D: Tensor,
        at: Tensor,
        owners_VN: Tensor,
        vectors: bool,
    ) -> Tensor:
        out_BLD, x_ND = _modulate(base, x_BLD, factor_V1D, at, vectors)
        ctx.save_for_backward(x_BLD, x_ND, factor_V1D, at, owners_VN)
        ctx.vectors = vectors
        return out_BLD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), needed = gradients, ctx.needs_input_grad
        x_BLD, x_ND, factor_V1D, at, owners_VN = ctx.saved_tensors
        own_B1D, last_1D = factor_V1D.split([len(factor_V1D) - 1, 1])
        rows_ND = _rows(gradient, at)

        def of_vectors(values_BLD: Tensor, values_ND: Tensor) -> Tensor:
            # In float32: what is left of a sum less its clean tokens may be small beside both.
            sums_VD = values_ND.new_zeros(owners_VN.shape[0], values_ND.shape[1], dtype=torch.float32)
            torch.sum(values_BLD, dim=1, dtype=torch.float32, out=sums_VD[:-1])
            return sums_VD.addmm_(owners_VN, values_ND.float())[:, None]

        of_base, of_x, of_factor = None, None, None
        if needed[0]:
            of_base = of_vectors(gradient, rows_ND) if ctx.vectors else gradient
        if needed[1]:
            of_x = _with_rows(gradient * own_B1D, at, rows_ND * last_1D.flatten(0, 1))
        if needed[2]:
            of_factor = of_vectors(gradient * x_BLD, rows_ND * x_ND)
        return of_base, of_x, of_factor, None, None, None
