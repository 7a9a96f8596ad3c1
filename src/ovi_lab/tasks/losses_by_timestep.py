"""Losses binned by timestep: an average over timesteps hides where a model is good."""

from __future__ import annotations

import torch
from torch import Tensor


class LossByTimestep:
    """Sums losses per bin of sigma between two reports; stays on the device until asked.

    Args:
        bins: equal bins of sigma over [0, 1].
    """

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, modality: str, loss_B: Tensor, sigma_B: Tensor) -> None:
        """Per-clip losses [B] and their sigma [B]."""
        if modality not in self._sums:
            self._sums[modality] = torch.zeros(2, self.bins, device=loss_B.device)
        where = (sigma_B * self.bins).long().clamp_(0, self.bins - 1)
        sums = self._sums[modality]
        sums[0].index_add_(0, where, loss_B.detach().float())
        sums[1].index_add_(0, where, torch.ones_like(loss_B, dtype=torch.float32))

    def collect(self) -> dict[str, float]:
        """Mean loss by `<modality>_t<from>-<to>` (in thousandths of sigma) for bins that were met; starts anew."""
        report = {}
        for modality, sums in self._sums.items():
            for index, (total, count) in enumerate(sums.T.tolist()):
                if count:
                    low, high = (round(1000 * edge / self.bins) for edge in (index, index + 1))
                    report[f"{modality}_t{low:03d}-{high:03d}"] = total / count
        self._sums = {}
        return report
