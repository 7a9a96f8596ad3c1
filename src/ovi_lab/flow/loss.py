"""The flow-matching loss of one modality: mean squared error of the velocity, padding and given frames apart.

Shapes: B batch; a clip's latents are [C, F, H, W] (video) or [L, C] (audio).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovi_lab.errors import UserError


@dataclass(frozen=True)
class FlowLoss:
    """Mean squared error by clip and over the batch; every clip counts alike, however long it is."""

    per_clip: Tensor
    """float32 [B]: the mean over each clip's scored elements, differentiable."""

    @property
    def mean(self) -> Tensor:
        """The scalar that is trained: the mean of `per_clip`."""
        return self.per_clip.mean()


def flow_matching_loss(
    predicted: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    mask: Tensor | Sequence[Tensor] | None = None,
    skip_first_frame: bool | Tensor = False,
) -> FlowLoss:
    """Squared error of the velocity, averaged over each clip's scored elements.

    Args:
        predicted, target: Tensor [B, ...] or lists of clips whose shapes may differ.
        mask: True where an element is scored; broadcastable to `target` (to each clip of a list), so
            [B, L, 1] for padded audio. None scores all; a clip with nothing to score has the loss 0.
        skip_first_frame: video only; the first latent frame was given and is not scored. For all clips (bool)
            or for each (bool Tensor [B]).

    Raises UserError where shapes differ and where a clip would have nothing to score by its shape.
    """
    if isinstance(predicted, Tensor) and isinstance(target, Tensor):
        whole = mask if mask is None or isinstance(mask, Tensor) else torch.stack(list(mask))
        return FlowLoss(_per_clip(predicted, target, whole, skip_first_frame))
    masks: Sequence[Tensor | None] = [None] * len(predicted) if mask is None else list(mask)
    losses = []
    for index, (p, t, m) in enumerate(zip(predicted, target, masks, strict=True)):
        skip = skip_first_frame
        if isinstance(skip, Tensor):
            skip = skip[index : index + 1]
        losses.append(_per_clip(p[None], t[None], None if m is None else m[None], skip))
    return FlowLoss(torch.cat(losses))


def _per_clip(predicted: Tensor, target: Tensor, mask: Tensor | None, skip: bool | Tensor) -> Tensor:
    """[B] of a batch of one shape."""
    if predicted.shape != target.shape:
        raise UserError(
            f"the prediction has shape {list(predicted.shape)}, the target {list(target.shape)}; "
            "expected the same"
        )
    if mask is not None:
        mask = mask.to(torch.bool).expand(target.shape)
    if isinstance(skip, Tensor) or skip:
        if target.dim() != 5 or target.shape[2] < 2:
            raise UserError(
                f"latents of shape {list(target.shape)} have no frame beside the given first one; "
                "score clips of at least two latent frames, or train without given first frames"
            )
        if isinstance(skip, Tensor):
            later_F = torch.arange(target.shape[2], device=target.device) > 0
            scored_BF = later_F | ~skip.to(target.device)[:, None]
            scored = scored_BF[:, None, :, None, None].expand(target.shape)
            mask = scored if mask is None else mask & scored
        else:
            predicted, target = predicted[:, :, 1:], target[:, :, 1:]
            mask = None if mask is None else mask[:, :, 1:]
    difference = predicted.float() - target.float()
    if mask is None:
        return difference.square().flatten(1).mean(dim=1)
    # where, not a product, and before the square: padding may hold anything, even what is not a number, and
    # neither the loss nor its gradient sees it.
    difference = torch.where(mask, difference, torch.zeros_like(difference))
    return difference.square().flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp_min(1)
