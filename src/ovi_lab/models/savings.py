"""What the model does once instead of again and again, and the ways that it replaces, kept to measure against.

The ways that are replaced are those of the released inference code: time projected for every token, positions
turned clip by clip in float64 by tables put together in every call, keys masked where nothing is padded.

Shapes: B batch, L tokens, H heads, K head dim, P pairs of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovi_lab.models.rope import Grid, axis_angles, axis_dims


@dataclass(frozen=True)
class ModelSavings:
    """Savings inside the model; each changes time and memory, and the prediction by no more than rounding."""

    shared_modulation: bool = True
    """Time embedded and projected once per distinct timestep of a clip (one, or two where its first frame is
    given); False does so for every token, which also keeps 6 x dim numbers a token."""
    cache_rope: bool = True
    """Rotation tables made once per shape and applied to the whole batch in float32; False puts the tables
    together in every call, and turns clip by clip in float64."""
    cache_masks: bool = True
    """The mask of given first frames made once per shape, and no key mask where no clip is padded; False makes
    both in every pass."""


class LoopedRotation:
    """The rotation of a batch as a loop over its clips: one table of each, put together anew in every call."""

    def __init__(self, axes: Sequence[Sequence[Tensor]], grids: Sequence[Grid]) -> None:
        self.axes = axes
        """Per clip: complex128 tables [positions, P of the axis] of its one (audio) or three axes."""
        self.grids = grids

    def turn(self, x_BLHK: Tensor) -> Tensor:
        """The pairs of `x` turned; channels past the axes' and tokens past a clip's own pass as they are."""
        turned = []
        for x_LHK, axes, (f, h, w) in zip(x_BLHK, self.axes, self.grids, strict=True):
            places = ((f, 1, 1), (1, h, 1), (1, 1, w))
            table_FHWP = torch.cat(
                [
                    axis[: max(place)].view(*place, -1).expand(f, h, w, -1)
                    for axis, place in zip(axes, places, strict=False)
                ],
                dim=-1,
            )
            table_L1P = table_FHWP.flatten(0, 2)[:, None]
            own, channels = table_L1P.shape[0], 2 * table_L1P.shape[-1]
            pairs = x_LHK[:own, :, :channels].to(torch.float64).unflatten(-1, (-1, 2)).contiguous()
            real = torch.view_as_real(torch.view_as_complex(pairs) * table_L1P).flatten(-2)
            real = torch.cat([real, x_LHK[:own, :, channels:]], dim=-1)
            turned.append(torch.cat([real, x_LHK[own:]]))
        return torch.stack(turned).to(x_BLHK.dtype)

    def repeated(self, passes: int) -> LoopedRotation:
        """The rotation of the same clips `passes` times over."""
        return LoopedRotation(list(self.axes) * passes, list(self.grids) * passes)


class LoopedTables:
    """Stands in for `RopeTables` where rotations are not cached; single axes are kept, as they are there."""

    def __init__(self, head_dim: int, theta: float) -> None:
        self.dims = axis_dims(head_dim)
        self.theta = theta
        self._axes: dict[tuple[int, float, torch.device], Tensor] = {}

    def video(self, grids: Sequence[Grid], device: torch.device) -> LoopedRotation:
        """The rotation of video clips of `grids` tokens."""
        longest = max(max(grid) for grid in grids)
        axes = [self._axis(dims, 1.0, longest, device) for dims in self.dims]
        return LoopedRotation([axes] * len(grids), grids)

    def audio(
        self, lengths: Sequence[int], factors: Sequence[float] | Tensor, device: torch.device
    ) -> LoopedRotation:
        """The rotation of audio clips of `lengths` tokens at positions times their factor; no gradient."""
        if isinstance(factors, Tensor):
            factors = [factors.item()] * len(lengths)
        axes = [[self._axis(self.dims[0], factor, max(lengths), device)] for factor in factors]
        return LoopedRotation(axes, [(n, 1, 1) for n in lengths])

    def _axis(self, dims: int, factor: float, length: int, device: torch.device) -> Tensor:
        """complex128 [at least length, dims / 2]."""
        key = (dims, factor, device)
        if key not in self._axes or self._axes[key].shape[0] < length:
            with torch.inference_mode(False), torch.no_grad():
                positions = torch.arange(max(length, 1024), dtype=torch.float64, device=device) * factor
                angles = axis_angles(positions, dims, self.theta)
                self._axes[key] = torch.polar(torch.ones_like(angles), angles)
        return self._axes[key]
