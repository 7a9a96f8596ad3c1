"""Rotary position embedding over video latents (frames, rows, columns) and audio latents (time).

Adjacent channels 2i and 2i+1 form a pair that is turned by position * theta^(-2i/n), n the channels of its
axis (Su et al., arXiv 2104.09864). A head's channels are divided among frames, rows and columns; audio turns
the frames' share only, and its positions are scaled to the video's (arXiv 2510.01284), so that the pairs
which tell time mean the same in both towers. Turning a pair is one complex multiplication; tables hold its factor
as a pair of real numbers, cosine and sine.

Shapes: B batch, L tokens, H heads, K head dim, P = K / 2 pairs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Grid = tuple[int, int, int]
"""Frames, rows and columns of a clip, in tokens."""

_Item = TypeVar("_Item", bound=Hashable)
_Table = TypeVar("_Table")


def from_host(
    values: Sequence[Any] | NDArray[Any], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """A small tensor of host numbers on `device`; on CUDA copied without waiting for it."""
    if isinstance(values, np.ndarray):  # by a copy of NumPy's, which takes a fifth of the time
        host = torch.from_numpy(values.copy())
        host = host if dtype is None else host.to(dtype)
    else:
        host = torch.tensor(values, dtype=dtype, device="cpu")
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that turn with frames, rows and columns (44, 42, 42 of 128)."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def axis_angles(positions: Tensor, dims: int, theta: float) -> Tensor:
    """Angles in radians, float64 [..., dims / 2], of `positions` [...] on an axis of `dims` channels."""
    exponents = torch.arange(0, dims, 2, dtype=torch.float64, device=positions.device) / dims
    return positions.to(torch.float64)[..., None] * theta**-exponents


def video_angles(
    grids: Sequence[Grid],
    length: int,
    head_dim: int,
    theta: float,
    device: torch.device,
    frame_factor: float = 1.0,
) -> Tensor:
    """Angles float64 [len(grids), length, K / 2]; tokens run over frames, then rows, then columns.

    Frame n stands at frame_factor * n.

    Tokens past a clip's own are padding and have the angle 0: they are not turned.
    """
    sizes_B3 = from_host(grids, device)
    index_L = torch.arange(length, device=device)
    rows_B1, columns_B1 = sizes_B3[:, 1:2], sizes_B3[:, 2:3]
    plane_B1 = rows_B1 * columns_B1
    frames_BL = (index_L // plane_B1).to(torch.float64) * frame_factor
    positions = (frames_BL, index_L % plane_B1 // columns_B1, index_L % columns_B1)
    angles_BLP = torch.cat(
        [axis_angles(p, n, theta) for p, n in zip(positions, axis_dims(head_dim), strict=True)], dim=-1
    )
    real_BL = index_L < sizes_B3.prod(dim=1, keepdim=True)
    return angles_BLP * real_BL[..., None]


def audio_angles(
    lengths: Sequence[int], length: int, head_dim: int, theta: float, device: torch.device
) -> Tensor:
    """Unscaled angles float64 [len(lengths), length, K / 2]; pairs past the frames' share have angle 0."""
    index_L = torch.arange(length, device=device)
    own = axis_angles(index_L, axis_dims(head_dim)[0], theta)
    angles_LP = torch.nn.functional.pad(own, (0, head_dim // 2 - own.shape[-1]))
    real_BL = index_L < from_host(lengths, device)[:, None]
    return angles_LP * real_BL[..., None]


def rotation(angles_BLP: Tensor) -> Tensor:
    """Cosines and sines, float32 [B, L, 1, P, 2], of float64 angles; differentiable."""
    return torch.stack([angles_BLP.cos(), angles_BLP.sin()], dim=-1).float()[:, :, None]


def apply_rotation(x_BLHK: Tensor, table_BL1P2: Tensor) -> Tensor:
    """The pairs of `x` turned by the table's angles, in float32 whatever the type of `x`, which is kept.

    The table may be made for one clip [1, L, 1, P, 2] and is then shared by the batch.
    """
    x_BLHP2 = x_BLHK.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        # The compiler fuses real arithmetic into one kernel, and complex arithmetic not at all.
        (even, odd), (cos, sin) = x_BLHP2.unbind(-1), table_BL1P2.unbind(-1)
        turned_BLHP2 = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    else:
        # Uncompiled, real arithmetic is seven kernels and 13 times the time of this one on a CPU; results are equal.
        factors = torch.view_as_complex(table_BL1P2)
        turned_BLHP2 = torch.view_as_real(torch.view_as_complex(x_BLHP2) * factors)
    return turned_BLHP2.flatten(-2).to(x_BLHK.dtype)


class KeptTables(Generic[_Table]):
    """The most recent tables by what they are made of, each made once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._tables: OrderedDict[Hashable, _Table] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _Table]) -> _Table:
        """The table of `key`, made where it is not kept."""
        if key not in self._tables:
            # A table made while inference_mode is on could never be used in training afterwards.
            with torch.inference_mode(False), torch.no_grad():
                self._tables[key] = make()
            while len(self._tables) > self._capacity:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]


class RopeTables:
    """Rotation tables by shape and device, computed in float64 once and kept while they are in use.

    Clips of one shape share one row; a batch of several shapes gets one row a clip. The most recent
    `capacity` tables stay.
    """

    def __init__(self, head_dim: int, theta: float, video_factor: float = 1.0, capacity: int = 32) -> None:
        self.head_dim = head_dim
        self.theta = theta
        self.video_factor = video_factor
        self._kept: KeptTables[Tensor] = KeptTables(capacity)

    def video(self, grids: Sequence[Grid], device: torch.device) -> Tensor:
        """Table float32 [1 or B, L, 1, P, 2] of clips of `grids` tokens, L the longest clip's count."""
        grids = _collapse(grids)
        length = max(f * h * w for f, h, w in grids)

        def make() -> Tensor:
            shape = (grids, length, self.head_dim, self.theta)
            return rotation(video_angles(*shape, device, self.video_factor))

        return self._kept.get(("video", grids, device), make)

    def audio(
        self, lengths: Sequence[int], factors: Sequence[float] | Tensor, device: torch.device
    ) -> Tensor:
        """Table float32 [1 or B, L, 1, P, 2] of clips of `lengths` tokens.

        `factors` scales the positions: one number a clip, or a Tensor[1] that gets a gradient.
        """
        if isinstance(factors, Tensor):
            lengths = _collapse(lengths)
            return rotation(self._plain_audio_angles(lengths, device) * factors.to(torch.float64))
        pairs = _collapse(tuple(zip(lengths, factors, strict=True)))

        def make() -> Tensor:
            scale = from_host([f for _, f in pairs], device, torch.float64)
            return rotation(self._plain_audio_angles([n for n, _ in pairs], device) * scale[:, None, None])

        return self._kept.get(("audio", pairs, device), make)

    def _plain_audio_angles(self, lengths: Sequence[int], device: torch.device) -> Tensor:
        return self._kept.get(
            ("angles", tuple(lengths), device),
            lambda: audio_angles(lengths, max(lengths), self.head_dim, self.theta, device),
        )


def _collapse(items: Sequence[_Item]) -> tuple[_Item, ...]:
    """One item where all are equal, else all of them."""
    return (items[0],) if len(set(items)) == 1 else tuple(items)
