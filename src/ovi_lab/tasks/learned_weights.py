"""Weights of the modalities' losses that are trained with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ovi_lab.errors import UserError


class LearnedWeights(nn.Module):
    """Homoscedastic uncertainty of each modality (Kendall et al., arXiv 1705.07115, section 3.2).

    With s the logarithm of a modality's variance, its loss L counts as exp(-s) L / 2 + s / 2: the negative logarithm of
    a normal likelihood, up to a constant. It is least where the weight exp(-s) / 2 is 1 / (2 L).

    Args:
        weights: by modality, the weights to begin with; above 0.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        if len(weights) < 2:
            raise UserError(
                "loss.learned=true weighs two modalities against each other, and this task trains "
                f"{' '.join(weights)} alone: use loss=equal"
            )
        lacking = next((modality for modality, weight in weights.items() if not weight), None)
        if lacking is not None:
            raise UserError(
                f"loss.learned=true begins with weights above 0, and loss.{lacking} is 0: give loss.{lacking}=0.5"
            )
        self.modalities = tuple(weights)
        self.log_variances = nn.Parameter(torch.tensor([-math.log(2 * w) for w in weights.values()]))

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar that is trained, of the modalities that a batch has, and the weight of every modality."""
        weights, logs = self.weights(), dict(zip(self.modalities, self.log_variances.float(), strict=True))
        total = torch.stack([weights[m] * loss + logs[m] / 2 for m, loss in losses.items()]).sum()
        return total, {modality: weight.detach() for modality, weight in weights.items()}

    def weights(self) -> dict[str, Tensor]:
        """The weight of each modality now."""
        return dict(zip(self.modalities, (-self.log_variances.float()).exp() / 2, strict=True))
