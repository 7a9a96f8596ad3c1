"""Which clips an epoch takes of several sources.

Shape suffixes: N clips of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ovi_lab.common.seeding import generator_for
from ovi_lab.data.columns import Array, empty
from ovi_lab.errors import UserError


class WeightedDraw:
    """The clips that each epoch takes of several sources, by weight.

    An epoch has as many clips as the sources have together. Each source is gone through in a seeded order of its own,
    and in another one when it has ended: none of its clips comes again before all others have come. What an epoch takes
    is a function of seed and epoch alone.

    Args:
        counts: clips of each source, whose numbers follow those of the source before.
        weights: of the sources; they sum to 1.
        seed: of the orders.

    Raises:
        UserError: a weight is too small for one clip in an epoch.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.counts, self.seed = list(counts), seed
        self.size = sum(counts)
        """Clips of an epoch."""
        ends = [round(end * self.size) for end in np.cumsum(weights)]
        self.taken = np.diff([0, *ends[:-1], self.size]).tolist()
        """Of each source in an epoch."""
        for weight, taken in zip(weights, self.taken, strict=True):
            if taken < 1:
                raise UserError(
                    f"a weight of {weight:g} in data.sources is no clip in an epoch of {self.size}: leave that source "
                    "out, or give it more"
                )

    def numbers(self, epoch: int) -> Array:
        """The numbers [N] of an epoch's clips, source by source."""
        kind = torch.int32 if self.size < 2**30 else torch.int64
        numbers_N = empty(self.size, torch.empty(0, dtype=kind).numpy().dtype)
        at = first = 0
        for source, (count, taken) in enumerate(zip(self.counts, self.taken, strict=True)):
            begin = epoch * taken
            while begin < (epoch + 1) * taken:
                passed, within = divmod(begin, count)
                piece = min(count - within, (epoch + 1) * taken - begin)
                generator = generator_for("order of a source", self.seed, source, passed)
                order = torch.randperm(count, generator=generator, dtype=kind).numpy()
                numbers_N[at : at + piece] = first + order[within : within + piece]
                at, begin = at + piece, begin + piece
            first += count
        return numbers_N
