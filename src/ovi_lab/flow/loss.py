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
    """float32 [B]: the mean over a clip's scored elements; detached from no graph."""

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
        mask: True (or 1) where an element is scored; broadcastable to `target` (to each clip of a list).
            None scores all.
        skip_first_frame: video only; the first latent frame was given and is not scored. For all clips (bool)
            or for each (bool Tensor [B]).

    Raises UserError where shapes differ and where a clip would have nothing to score by its shape.
    """
    pieces = (
        [(predicted, target, mask)]
        if isinstance(predicted, Tensor)
        else list(zip(predicted, target, mask or [None] * len(predicted), strict=True))
    )
    batched = isinstance(predicted, Tensor)
    losses = []
    for index, (p, t, m) in enumerate(pieces):
        if not isinstance(p, Tensor) or not isinstance(t, Tensor) or p.shape != t.shape:
            raise UserError(f"the prediction has shape {_shape(p)}, the target {_shape(t)}; expected the same")
        skip = skip_first_frame
        if isinstance(skip, Tensor) and not batched:
            skip = skip[index : index + 1]
        if not batched:
            p, t, m = p[None], t[None], None if m is None else torch.as_tensor(m)[None]
        losses.append(_per_clip(p, t, m if isinstance(m, Tensor) else None, skip))
    return FlowLoss(torch.cat(losses))


def _per_clip(predicted: Tensor, target: Tensor, mask: Tensor | None, skip: bool | Tensor) -> Tensor:
    """[B] of a batch of one shape."""
    skips = isinstance(skip, Tensor) or skip
    if skips and (target.dim() != 5 or target.shape[2] < 2):
        raise UserError(
            f"latents of shape {list(target.shape)} have no frame beside the given first one; "
            "score clips of at least two latent frames, or train without given first frames"
        )
    if skip is True:
        predicted, target = predicted[:, :, 1:], target[:, :, 1:]
        mask = mask if mask is None or mask.dim() < 5 or mask.shape[2] == 1 else mask[:, :, 1:]
    error = (predicted.float() - target.float()).square()
    if isinstance(skip, Tensor):
        later_F = torch.arange(target.shape[2], device=target.device) > 0
        scored = later_F | ~skip.to(target.device).reshape(-1, 1)
        frames = scored[:, None, :, None, None]
        mask = frames if mask is None else mask.to(torch.bool) & frames
    if mask is None:
        return error.flatten(1).mean(dim=1)
    weight = mask.to(error.dtype).expand_as(error).flatten(1)
    return (error.flatten(1) * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)


def _shape(x: object) -> object:
    return list(x.shape) if isinstance(x, Tensor) else type(x).__name__
