"""The ways of the released inference code that our sampling replaces, each to be switched back on: what they cost is
the table of sampling.md.

Time is projected for every token, positions are turned clip by clip in float64 by tables put together in every call,
keys are masked where nothing is padded, padding is attended to token by token, and both passes of guidance compute
what no text has reached.

Shapes: B batch, L tokens, H heads, K head dim, P pairs of channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ovi_lab.models import Given, TwinDiT, attention
from ovi_lab.models.rope import Grid, apply_rotation, axis_angles, axis_dims, from_host
from ovi_lab.models.token_times import TokenTimes
from ovi_lab.models.tower import Conditions, Tokens, token_mask

SAVINGS = ("merge_padding", "share_opening", "shared_modulation", "cache_rope", "cache_masks")


class ReferenceTwin(TwinDiT):
    """A model whose savings can be switched off one by one; as built it saves everything."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.set_savings()

    def set_savings(self, **savings: bool) -> None:
        """Save what is True of `SAVINGS`, which is all that is not named."""
        if unknown := savings.keys() - set(SAVINGS):
            raise TypeError(f"no savings are called {', '.join(sorted(unknown))}")
        self.savings = dict.fromkeys(SAVINGS, True) | savings
        self.shares_opening = self.savings["share_opening"]
        for modality in self.tower_configs:
            self.tower(modality).merges_padding = self.savings["merge_padding"]
        self.forget_tables()
        if not self.savings["cache_rope"]:
            head_dim = next(iter(self.tower_configs.values())).head_dim
            self._rope_tables: Any = LoopedTables(head_dim, self.rope_config.theta)
            attention.apply_rotation = turned

    def _conditions(
        self, modality: Any, tokens: Tokens, t: Any, text: Any, given: Given, *rest: Any
    ) -> Conditions:
        if not self.savings["cache_masks"]:
            self._times = TokenTimes()
            if tokens.mask is None:
                B, L, _ = tokens.x.shape
                mask = torch.ones(B, 1, 1, L, dtype=torch.bool, device=tokens.x.device)
                tokens = dataclasses.replace(tokens, mask=mask)
        if self.savings["shared_modulation"]:
            return super()._conditions(modality, tokens, t, text, given, *rest)
        tower = self.tower(modality)
        t_BL = t.to(tokens.x.device).reshape(-1, 1).expand(tokens.x.shape[:2])
        if (frames := given.mask(modality)) is not None:
            clean = from_host(token_mask(frames, tokens.grids, tokens.x.shape[1]), tokens.x.device)
            t_BL = torch.where(clean, torch.zeros_like(t_BL), t_BL)
        shared = tower.embed_time
        tower.embed_time = lambda _: shared(t_BL)
        try:
            return super()._conditions(modality, tokens, t, text, Given(), *rest)
        finally:
            del tower.embed_time


class LoopedRotation:
    """The rotation of a batch as a loop over its clips, in place of a table: each clip's is put together in every
    call."""

    def __init__(self, axes: Sequence[Sequence[Tensor]], grids: Sequence[Grid]) -> None:
        self.axes = axes
        """Per clip: complex128 tables [positions, P of the axis] of its one (audio) or three axes."""
        self.grids = grids
        self.shape = (len(grids),)

    def turn(self, x_BLHK: Tensor) -> Tensor:
        """The pairs of `x` turned; channels past the axes' and tokens past a clip's own pass as they are."""
        turned, passes = [], len(x_BLHK) // len(self.grids)
        for x_LHK, axes, (f, h, w) in zip(x_BLHK, [*self.axes] * passes, [*self.grids] * passes, strict=True):
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

    def dim(self) -> int:
        """As a table has it that is repeated for several passes."""
        return 1

    def repeat(self, _passes: int) -> LoopedRotation:
        """Itself: `turn` takes the same clips several times over."""
        return self


class LoopedTables:
    """Replaces `RopeTables` where rotations are not kept; single axes are kept, as the released code does."""

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
            positions = torch.arange(max(length, 1024), dtype=torch.float64, device=device) * factor
            angles = axis_angles(positions, dims, self.theta)
            self._axes[key] = torch.polar(torch.ones_like(angles), angles)
        return self._axes[key]


def turned(x_BLHK: Tensor, table: Any) -> Tensor:
    """`apply_rotation` of tables and of looped rotations."""
    return table.turn(x_BLHK) if isinstance(table, LoopedRotation) else apply_rotation(x_BLHK, table)
