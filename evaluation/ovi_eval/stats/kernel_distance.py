"""The kernel distance between two sets of features (KID): unbiased at any number of clips.

Bińkowski et al. 2018, "Demystifying MMD GANs": the squared maximum mean discrepancy under the kernel
k(x, y) = (x·y / D + 1)³, averaged over random subsets.

Shapes: N and M rows, D features, S rows of a subset.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ovi_eval.errors import UserError
from ovi_eval.stats.frechet import checked_features

SUBSETS, SIZE, SEED = 100, 100, 2020
KEPT = 1 << 25
"""Numbers of a kernel matrix that are held at once; of larger sets each subset's part is computed by itself."""


def kernel_distance(
    x_ND: Tensor, y_MD: Tensor, *, subsets: int = SUBSETS, size: int = SIZE, seed: int = SEED
) -> tuple[float, float]:
    """Mean and spread (over subsets, ddof 0) of the unbiased squared discrepancy; it may fall below zero.

    Each subset takes `size` rows of either set without replacement, x before y, by numpy's
    `RandomState(seed).choice`. Raises UserError for fewer rows than `size`, another number of features, or
    values that are not finite.
    """
    x_ND, y_MD = _checked(x_ND, y_MD)
    if subsets < 1 or not 2 <= size <= min(len(x_ND), len(y_MD)):
        raise UserError(
            f"KID needs a subset or more of at least 2 clips and no more than either set has "
            f"({len(x_ND)} and {len(y_MD)}), got {subsets} of {size}"
        )
    both = torch.cat([x_ND, y_MD])
    # Where the subsets together hold more pairs than the sets have, all are computed once and looked up.
    everything = _kernel(both, both) if len(both) ** 2 <= min(KEPT, subsets * (2 * size) ** 2) else None
    rng = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        chosen_x = torch.from_numpy(rng.choice(len(x_ND), size, replace=False))
        chosen_y = torch.from_numpy(rng.choice(len(y_MD), size, replace=False)) + len(x_ND)
        chosen = torch.cat([chosen_x, chosen_y])
        part = _kernel(both[chosen], both[chosen]) if everything is None else everything[chosen][:, chosen]
        within = part[:size, :size], part[size:, size:]
        alike = sum(float(k.sum() - k.trace()) for k in within) / (size * (size - 1))
        found.append(alike - 2 * float(part[:size, size:].mean()))
    return float(np.mean(found)), float(np.std(found))


def kernel_interval(x_ND: Tensor, y_MD: Tensor) -> tuple[float, float]:
    """The discrepancy of all rows of both sets ± 1.96 jackknife standard errors over rows (Arvesen 1969).

    It says how far KID would move with other clips; nothing is drawn. Raises UserError for fewer than 3 rows in
    a set, and as `kernel_distance` does.
    """
    x_ND, y_MD = _checked(x_ND, y_MD)
    n, m = len(x_ND), len(y_MD)
    if min(n, m) < 3:
        raise UserError(f"an interval of KID needs 3 clips or more in either set, got {n} and {m}")
    # Of each row with all others of its set, and with all of the other set.
    within_x, within_y = (
        _row_sums(z, z) - (1 / z.shape[1] * z.square().sum(dim=1) + 1) ** 3 for z in (x_ND, y_MD)
    )
    across_x, across_y = _row_sums(x_ND, y_MD), _row_sums(y_MD, x_ND)
    alike_x, alike_y, across = within_x.sum(), within_y.sum(), across_x.sum()
    fixed_x, fixed_y = alike_x / (n * (n - 1)), alike_y / (m * (m - 1))
    value = float(fixed_x + fixed_y - 2 * across / (n * m))
    without_x = (alike_x - 2 * within_x) / ((n - 1) * (n - 2)) - 2 * (across - across_x) / ((n - 1) * m)
    without_y = (alike_y - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (across - across_y) / ((m - 1) * n)
    variance = sum(
        float((len(z) - 1) / len(z) * (z - z.mean()).square().sum()) for z in (without_x, without_y)
    )
    half = float(special.ndtri(0.975)) * variance**0.5
    return value - half, value + half


def _kernel(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    return (1 / x_ND.shape[1] * x_ND @ y_MD.T + 1) ** 3


def _row_sums(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """Sums of the kernel of each x with all y, in pieces that memory holds: [N]."""
    return torch.cat([_kernel(piece, y_MD).sum(dim=1) for piece in x_ND.split(max(1, KEPT // len(y_MD)))])


def _checked(x_ND: Tensor, y_MD: Tensor) -> tuple[Tensor, Tensor]:
    x_ND, y_MD = (checked_features(z, which, "KID") for z, which in ((x_ND, "first"), (y_MD, "second")))
    if x_ND.shape[1] != y_MD.shape[1]:
        raise UserError(f"KID needs the same features in both sets, got {x_ND.shape[1]} and {y_MD.shape[1]}")
    return x_ND, y_MD
