"""The Fréchet distance between two sets of features, in float64, exact also with fewer clips than features.

    d² = |μx - μy|² + tr(Cx) + tr(Cy) - 2 tr((Cx Cy)^½)        (Dowson and Landau 1982; Heusel et al. 2017)

With centred features Fx [N, D] and Cx = FxᵀFx / (N - 1), the last trace is the sum of the singular values of
Fx Fyᵀ / √((N - 1)(M - 1)): the nuclear norm of a product of factors. No square root of a matrix is taken,
so nothing turns complex or loses digits where a covariance is singular, which a matrix square root does.

Shapes: N and M clips, D features.
"""

import torch
from torch import Tensor

from .errors import EvalError


def frechet_distance(x_ND: Tensor, y_MD: Tensor) -> float:
    """Squared Fréchet distance (what FVD and FAD report) of Gaussians fitted to two sets of features.

    Covariances are the unbiased ones. Raises EvalError for fewer than two clips in a set, another number of
    features, or values that are not finite.
    """
    mean_xD, factor_xRD = _factor(x_ND, "first")
    mean_yD, factor_yRD = _factor(y_MD, "second")
    return _distance(mean_xD, factor_xRD, mean_yD, factor_yRD)


def frechet_from_statistics(mean_xD: Tensor, cov_xDD: Tensor, mean_yD: Tensor, cov_yDD: Tensor) -> float:
    """The same from means and covariances, as published statistics files hold them.

    A covariance's eigenvalues below zero are rounding and count as zero. Raises EvalError where shapes do
    not fit, a covariance is not symmetric, or it has an eigenvalue below zero by more than rounding.
    """
    return _distance(
        mean_xD.double(),
        _covariance_factor(mean_xD, cov_xDD, "first"),
        mean_yD.double(),
        _covariance_factor(mean_yD, cov_yDD, "second"),
    )


def _factor(features_ND: Tensor, which: str) -> tuple[Tensor, Tensor]:
    """The mean [D], and F [min(N, D), D] with FᵀF the covariance."""
    if features_ND.dim() != 2 or features_ND.shape[0] < 2:
        raise EvalError(
            f"a Fréchet distance needs features [N, D] with N >= 2, "
            f"got {list(features_ND.shape)} in the {which} set; score more clips"
        )
    x_ND = features_ND.detach().cpu().double()
    bad = (~torch.isfinite(x_ND)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise EvalError(
            f"a Fréchet distance needs finite features; the {which} set has others in {len(bad)} of "
            f"{len(x_ND)} clips, the first being clip {bad[0]}"
        )
    mean_D = x_ND.mean(dim=0)
    centred_ND = (x_ND - mean_D) / (len(x_ND) - 1) ** 0.5
    if centred_ND.shape[0] > centred_ND.shape[1]:
        # FᵀF = RᵀR: the small triangle holds all that the trace needs of many clips.
        centred_ND = torch.linalg.qr(centred_ND, mode="r").R
    return mean_D, centred_ND


def _covariance_factor(mean_D: Tensor, cov_DD: Tensor, which: str) -> Tensor:
    if mean_D.dim() != 1 or cov_DD.shape != (len(mean_D), len(mean_D)):
        raise EvalError(
            f"statistics need a mean [D] and a covariance [D, D], got {list(mean_D.shape)} and "
            f"{list(cov_DD.shape)} in the {which} set"
        )
    cov = cov_DD.detach().cpu().double()
    scale = float(cov.abs().max()) or 1.0
    if not bool(torch.isfinite(cov).all()) or float((cov - cov.T).abs().max()) > 1e-5 * scale:
        raise EvalError(
            f"the covariance of the {which} set is not finite and symmetric; make the statistics again"
        )
    values_D, vectors_DD = torch.linalg.eigh((cov + cov.T) / 2)
    if float(values_D[0]) < -1e-4 * scale:
        raise EvalError(
            f"the covariance of the {which} set has the eigenvalue {float(values_D[0]):.3g}, below zero"
        )
    return values_D.clamp(min=0).sqrt()[:, None] * vectors_DD.T


def _distance(mean_xD: Tensor, factor_xRD: Tensor, mean_yD: Tensor, factor_yRD: Tensor) -> float:
    if mean_xD.shape != mean_yD.shape:
        raise EvalError(
            f"a Fréchet distance needs the same features in both sets, got {len(mean_xD)} and {len(mean_yD)}"
        )
    apart = (mean_xD.cpu() - mean_yD.cpu()).square().sum()
    spread = factor_xRD.square().sum() + factor_yRD.square().sum()
    shared = torch.linalg.svdvals(factor_xRD @ factor_yRD.T).sum()
    # Equal sets differ by rounding only, which may fall on either side of zero.
    return float((apart + spread - 2 * shared).clamp(min=0))
