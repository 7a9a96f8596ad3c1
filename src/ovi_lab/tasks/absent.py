"""A modality that a batch lacks, in training of both towers.

Its tower gets a placeholder of one token a clip, which nothing reads and which has no loss. So every parameter has a
gradient, 0 in that tower, in every micro-batch under every strategy: DDP and ZeRO wait for those of all parameters, and
ZeRO 3 would step with the last one where a parameter has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import Modality


def absence(
    model: TwinDiT, absent: Sequence[Modality], given: Given, clips: int, device: torch.device
) -> tuple[dict[str, Any], Given]:
    """Further arguments of the model for the modalities that a batch of so many clips lacks, and what is given then."""
    arguments: dict[str, Any] = {}
    for modality in absent:
        config = model.tower_configs[modality]
        shape = (
            (config.in_dim, *(config.patch_size or (1, 2, 2))) if modality == "video" else (1, config.in_dim)
        )
        arguments[modality] = torch.zeros(clips, *shape, device=device)
        arguments[f"t_{modality}"] = torch.zeros(clips, device=device)
        arguments[f"text_{modality}"] = [torch.zeros(0, config.text_dim, device=device)] * clips
        given = replace(given, **{f"no_{modality}": np.ones(clips, dtype=bool)})
    return arguments, given


def nothing_of(predicted: Tensor) -> Tensor:
    """0, whose gradient with respect to what was predicted is 0."""
    return torch.where(torch.zeros((), dtype=torch.bool, device=predicted.device), predicted, 0.0).sum()
