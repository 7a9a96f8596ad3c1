"""The flow-matching loss of one modality: mean squared error of the velocity, padding and given frames apart.

Shapes: B batch; a clip's latents are [C, F, H, W] (video) or [L, C] (audio).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovi_lab.errors import UserError
from ovi_lab.models.given import Mask
from ovi_lab.models.rope import from_host


@dataclass(frozen=True)
class FlowLoss:
    """Mean squared error by clip and over the batch; every clip counts alike, however long it is."""

    per_clip: Tensor
    """float32 [B]: the mean over each clip's scored elements, differentiable; 0 for a clip without any."""
    counted: Mask | None = None
    """bool [B]: clips that have something to score; None where all have."""

    @property
    def mean(self) -> Tensor:
        """The scalar that is trained: the mean of `per_clip`, to which a clip with nothing to score adds 0."""
        return self.per_clip.mean()


def flow_matching_loss(
    predicted: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    mask: Tensor | Sequence[Tensor] | None = None,
    scored: Mask | None = None,
) -> FlowLoss:
    """Squared error of the velocity, averaged over each clip's scored elements.

    Args:
        predicted, target: Tensor [B, ...] or lists of clips whose shapes may differ.
        mask: True where an element is scored; broadcastable to `target` (to each clip of a list), so
            [B, L, 1] for padded audio. None scores all; a clip with nothing to score has the loss 0.
        scored: bool [B, N], True at the latent frames (of [C, F, H, W]) or tokens (of [L, C]) that are not
            given; None scores all. See `Given.scored`.

    Raises UserError where shapes differ.
    """
    counted = None
    if scored is not None:
        some_B = scored.any(axis=1)
        counted = None if some_B.all() else some_B
    if isinstance(predicted, Tensor) and isinstance(target, Tensor):
        whole = mask if mask is None or isinstance(mask, Tensor) else torch.stack(list(mask))
        return FlowLoss(_per_clip(predicted, target, whole, scored), counted)
    masks: Sequence[Tensor | None] = [None] * len(predicted) if mask is None else list(mask)
    losses = []
    for index, (p, t, m) in enumerate(zip(predicted, target, masks, strict=True)):
        length = t.shape[1] if t.dim() == 4 else t.shape[0]
        own = None if scored is None else scored[index : index + 1, :length]
        losses.append(_per_clip(p[None], t[None], None if m is None else m[None], own))
    return FlowLoss(torch.cat(losses), counted)


def _per_clip(predicted: Tensor, target: Tensor, mask: Tensor | None, scored_BN: Mask | None) -> Tensor:
    """[B] of a batch of one shape."""
    if predicted.shape != target.shape:
        raise UserError(
            f"the prediction has shape {list(predicted.shape)}, the target {list(target.shape)}; "
            "expected the same"
        )
    if mask is not None:
        mask = mask.to(torch.bool).expand(target.shape)
    if scored_BN is not None and not scored_BN.all():
        axis = 2 if target.dim() == 5 else 1
        if (span := _one_span(scored_BN)) is not None:
            # What is scored is one piece of every clip: the rest is cut off, which costs no mask.
            predicted, target = predicted.narrow(axis, *span), target.narrow(axis, *span)
            mask = None if mask is None else mask.narrow(axis, *span)
        else:
            if mask is None:
                return _per_clip_of_frames(predicted, target, scored_BN, axis)
            scored = from_host(scored_BN, target.device)
            mask = mask & scored.reshape([n if i in (0, axis) else 1 for i, n in enumerate(target.shape)])
    difference = predicted.float() - target.float()
    if mask is None:
        return difference.square().flatten(1).mean(dim=1)
    # where, not a product, and before the square: padding may hold anything, even what is not a number, and
    # neither the loss nor its gradient sees it.
    difference = torch.where(mask, difference, 0.0)
    return difference.square().flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp_min(1)


def _per_clip_of_frames(predicted: Tensor, target: Tensor, scored_BN: Mask, axis: int) -> Tensor:
    """[B], with whole frames or tokens, finite as they are, left out: weights of sums, not of every element."""
    # Channels first: a sum over the outer dimension is the quicker one.
    squares = F.mse_loss(predicted.float(), target.float(), reduction="none")
    sums_BN = squares.sum(dim=3 - axis)
    sums_BN = sums_BN.flatten(2).sum(dim=2) if sums_BN.dim() > 2 else sums_BN
    each = target[0].numel() // scored_BN.shape[1]
    weights_BN = scored_BN / np.maximum(scored_BN.sum(axis=1, keepdims=True) * each, 1)
    return (sums_BN * from_host(weights_BN, target.device, torch.float32)).sum(dim=1)


def _one_span(scored_BN: Mask) -> tuple[int, int] | None:
    """Begin and length of the one stretch that is scored in every clip alike; None where there is no such."""
    if not (scored_BN == scored_BN[0]).all():
        return None
    at = np.flatnonzero(scored_BN[0])
    if not len(at) or at[-1] - at[0] + 1 != len(at):
        return None
    return int(at[0]), len(at)
