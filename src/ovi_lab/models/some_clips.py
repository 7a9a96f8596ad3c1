"""Some clips of a batch: those whose predictions are wanted, where the others need no more work.

A clip of which a modality is given wholly has no prediction of it. Its stream is read by the other tower up to the
self-attention of the last block, and what follows there serves nobody.

Shapes: B clips of the batch, n of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.models.rope import from_host


@dataclass(frozen=True)
class SomeClips:
    """Some, but not all, clips of a batch, in its order."""

    numbers: tuple[int, ...]
    """Their places in the batch, on the host."""
    index: Tensor
    """int64 [n], the same on the device."""
    size: int
    """Clips of the batch."""

    @classmethod
    def of(cls, wanted_B: NDArray[np.bool_] | None, size: int, device: torch.device) -> SomeClips | None:
        """Those that are True; None where all are, or none: a tower without any work would have no gradient.

        Raises UserError for a mask of another size.
        """
        if wanted_B is None:
            return None
        if wanted_B.shape != (size,):
            raise UserError(
                f"which predictions are wanted is marked for {list(wanted_B.shape)} clips; expected [{size}]"
            )
        numbers = np.flatnonzero(wanted_B)
        if len(numbers) in (0, size):
            return None
        return cls(tuple(numbers.tolist()), from_host(numbers, device), size)

    def take(self, x: Tensor) -> Tensor:
        """[n, ...] of [B, ...]; of one row for the whole batch, [1, ...], that row."""
        return x if x.shape[0] == 1 else x.index_select(0, self.index)

    def spread(self, x: Tensor | list[Tensor], like: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """What was made for these clips, [n, ...], in its place in the batch, with 0 for the others.

        Args:
            x: a Tensor, or a list of clips whose shapes may differ.
            like: the latents that came in, for the other clips' shapes: channels apart, those of what is made.
        """
        if isinstance(x, Tensor):
            return x.new_zeros(self.size, *x.shape[1:]).index_copy(0, self.index, x)
        own = dict(zip(self.numbers, x, strict=True))
        channels = 0 if x[0].dim() == 4 else -1

        def nothing(latents: Tensor) -> Tensor:
            shape = list(latents.shape)
            shape[channels] = x[0].shape[channels]
            return x[0].new_zeros(shape)

        return [own[i] if i in own else nothing(latents) for i, latents in enumerate(like)]
