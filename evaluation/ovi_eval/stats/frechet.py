"""The Fréchet distance between two sets of features, in float64, exact also with fewer clips than features.

    d² = |μx - μy|² + tr(Cx) + tr(Cy) - 2 tr((Cx Cy)^½)        (Dowson and Landau 1982; Heusel et al. 2017)

With centred features Fx [N, D] and Cx = FxᵀFx / (N - 1), the last trace is the sum of the singular values of
Fx Fyᵀ / √((N - 1)(M - 1)): the nuclear norm of a product of factors. No square root of a matrix is taken,
so nothing turns complex or loses digits where a covariance is singular, which a matrix square root does.

Shapes: N and M rows, D features, R = min(N, D).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ovi_eval.errors import UserError


@dataclass(frozen=True)
class Gaussian:
    """What a Fréchet distance knows of a set: its mean [D], and a factor F [R, D] with FᵀF its covariance."""

    mean_D: Tensor
    factor_RD: Tensor


def frechet_distance(x_ND: Tensor, y_MD: Tensor) -> float:
    """Squared Fréchet distance (what FVD and FAD report) of Gaussians fitted to two sets of features.

    Covariances are the unbiased ones. Raises UserError for fewer than two rows in a set, another number of
    features, or values that are not finite.
    """
    return between(gaussian_of(x_ND, "first"), gaussian_of(y_MD, "second"))


def frechet_from_statistics(mean_xD: Tensor, cov_xDD: Tensor, mean_yD: Tensor, cov_yDD: Tensor) -> float:
    """The same from means and covariances, as published statistics files hold them.

    A covariance's eigenvalues below zero are rounding and count as zero. Raises UserError where shapes do
    not fit, a covariance is not symmetric, or it has an eigenvalue below zero by more than rounding.
    """
    return between(
        Gaussian(mean_xD.double(), _covariance_factor(mean_xD, cov_xDD, "first")),
        Gaussian(mean_yD.double(), _covariance_factor(mean_yD, cov_yDD, "second")),
    )


def checked_features(features_ND: Tensor, which: str, what: str = "a Fréchet distance") -> Tensor:
    """The features in float64 on the CPU.

    Raises UserError, naming the set `which` and `what` needs it, as `frechet_distance` does.
    """
    if features_ND.dim() != 2 or features_ND.shape[0] < 2:
        raise UserError(
            f"{what} needs features [N, D] with N >= 2, "
            f"got {list(features_ND.shape)} in the {which} set; score more clips"
        )
    x_ND = features_ND.detach().cpu().double()
    bad = (~torch.isfinite(x_ND)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"{what} needs finite features; the {which} set has others in {len(bad)} of "
            f"{len(x_ND)} clips, the first being clip {bad[0]}"
        )
    return x_ND


def gaussian_of(features_ND: Tensor, which: str) -> Gaussian:
    """The Gaussian of a set of features. Raises UserError as `checked_features` does."""
    return weighted_gaussian(checked_features(features_ND, which))


def weighted_gaussian(x_ND: Tensor, times_N: Tensor | None = None) -> Gaussian:
    """The Gaussian of float64 rows that each occur `times_N` times (None: once), two or more in all."""
    if times_N is None:
        times_N = torch.ones(len(x_ND), dtype=torch.float64)
    occur = times_N > 0
    if not bool(occur.all()):
        x_ND, times_N = x_ND[occur], times_N[occur]
    total = float(times_N.sum())
    mean_D = times_N @ x_ND / total
    centred_ND = (x_ND - mean_D) * (times_N / (total - 1)).sqrt()[:, None]
    if centred_ND.shape[0] > centred_ND.shape[1]:
        # FᵀF = RᵀR: the small triangle holds all that the trace needs of many rows.
        centred_ND = torch.linalg.qr(centred_ND, mode="r").R
    return Gaussian(mean_D, centred_ND)


def _covariance_factor(mean_D: Tensor, cov_DD: Tensor, which: str) -> Tensor:
    if mean_D.dim() != 1 or cov_DD.shape != (len(mean_D), len(mean_D)):
        raise UserError(
            f"statistics need a mean [D] and a covariance [D, D], got {list(mean_D.shape)} and "
            f"{list(cov_DD.shape)} in the {which} set"
        )
    cov = cov_DD.detach().cpu().double()
    scale = float(cov.abs().max()) or 1.0
    if not bool(torch.isfinite(cov).all()) or float((cov - cov.T).abs().max()) > 1e-5 * scale:
        raise UserError(
            f"the covariance of the {which} set is not finite and symmetric; make the statistics again"
        )
    values_D, vectors_DD = torch.linalg.eigh((cov + cov.T) / 2)
    if float(values_D[0]) < -1e-4 * scale:
        raise UserError(
            f"the covariance of the {which} set has the eigenvalue {float(values_D[0]):.3g}, below zero"
        )
    return values_D.clamp(min=0).sqrt()[:, None] * vectors_DD.T


def between(x: Gaussian, y: Gaussian) -> float:
    """Squared Fréchet distance of two Gaussians. Raises UserError where they have other numbers of features."""
    if x.mean_D.shape != y.mean_D.shape:
        raise UserError(
            f"a Fréchet distance needs the same features in both sets, got {len(x.mean_D)} and {len(y.mean_D)}"
        )
    apart = (x.mean_D.cpu() - y.mean_D.cpu()).square().sum()
    traces = x.factor_RD.square().sum() + y.factor_RD.square().sum()
    shared = torch.linalg.svdvals(x.factor_RD @ y.factor_RD.T).sum()
    # Equal sets differ by rounding only, which may fall on either side of zero.
    return float((apart + traces - 2 * shared).clamp(min=0))
