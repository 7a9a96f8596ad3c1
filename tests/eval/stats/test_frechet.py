"""The Fréchet distance against its definition, a matrix square root and its own properties."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ovi_eval.errors import UserError
from ovi_eval.stats.frechet import (
    between,
    frechet_distance,
    frechet_from_statistics,
    gaussian_of,
    weighted_gaussian,
)


def features(count: int, size: int, seed: int, rank: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(rank or size, size, generator=generator, dtype=torch.float64) / math.sqrt(rank or size)
    return torch.randn(count, rank or size, generator=generator, dtype=torch.float64) @ mix + 0.1 * seed


def by_eigenvalues(x: torch.Tensor, y: torch.Tensor) -> float:
    """The definition, its trace from the eigenvalues of the covariances' product: good at full rank only."""
    trace = torch.linalg.eigvals(x.T.cov() @ y.T.cov()).real.clamp(min=0).sqrt().sum()
    apart = (x.mean(0) - y.mean(0)).square().sum()
    return float(apart + x.var(0).sum() + y.var(0).sum() - 2 * trace)


def test_statistics_of_fewer_clips_than_features_keep_half_the_digits() -> None:
    x, y = features(8, 400, 1), features(8, 400, 2)
    statistics = frechet_from_statistics(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert statistics == pytest.approx(frechet_distance(x, y), rel=1e-5)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 40, 8), (400, 300, 128), (130, 129, 128)])
def test_full_rank_equals_the_definition(n: int, m: int, d: int) -> None:
    x, y = features(n, d, 1), features(m, d, 2)
    assert frechet_distance(x, y) == pytest.approx(by_eigenvalues(x, y), rel=1e-8)
    statistics = frechet_from_statistics(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert statistics == pytest.approx(frechet_distance(x, y), rel=1e-8)


def test_features_in_a_small_subspace_equal_the_distance_inside_it() -> None:
    """Five dimensions turned into 600: a singular covariance whose distance is known from the five."""
    x, y = features(64, 5, 3), features(48, 5, 4)
    turn = torch.linalg.qr(torch.randn(600, 5, generator=torch.Generator().manual_seed(0)).double()).Q
    assert frechet_distance(x @ turn.T, y @ turn.T) == pytest.approx(by_eigenvalues(x, y), rel=1e-9)


def test_symmetric_zero_on_itself_and_shift_squared() -> None:
    x, y = features(30, 64, 5), features(20, 64, 6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-12)
    assert 0 <= frechet_distance(x, x) < 1e-10
    assert frechet_distance(x, x + 0.5) == pytest.approx(64 * 0.25, rel=1e-10)
    assert frechet_distance(x, 3 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(
        4 * float(x.var(0).sum()), rel=1e-10
    )


def test_single_precision_features_are_computed_in_double() -> None:
    x, y = features(400, 32, 7).float() + 1000, features(300, 32, 8).float() + 1000
    assert frechet_distance(x, y) == frechet_distance(x.double(), y.double())


def test_rows_that_occur_several_times_are_those_rows_repeated() -> None:
    x, y = features(30, 8, 9), features(25, 8, 10)
    times = torch.arange(30) % 4
    counted = between(weighted_gaussian(x, times.double()), gaussian_of(y, "second"))
    assert counted == pytest.approx(frechet_distance(x.repeat_interleave(times, dim=0), y), rel=1e-10)


@pytest.mark.slow
def test_a_matrix_square_root_gives_the_distance_with_fewer_digits() -> None:
    x, y = features(64, 256, 11), features(50, 256, 12)
    cov_x, cov_y = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    trace = np.trace(sqrtm(cov_x @ cov_y))
    apart = float((x.mean(0) - y.mean(0)).square().sum())
    by_root = apart + np.trace(cov_x) + np.trace(cov_y) - 2 * trace.real
    assert frechet_distance(x, y) == pytest.approx(by_root, rel=1e-5)
    assert np.iscomplexobj(trace)


def test_bad_features_are_refused() -> None:
    good = features(5, 4, 0)
    with pytest.raises(UserError, match=r"N >= 2, got \[1, 4\] in the second"):
        frechet_distance(good, good[:1])
    with pytest.raises(UserError, match="4 and 3"):
        frechet_distance(good, good[:, :3])
    broken = good.clone()
    broken[3, 1] = float("nan")
    with pytest.raises(UserError, match="first set has others in 1 of 5 clips, the first being clip 3"):
        frechet_distance(broken, good)
    with pytest.raises(UserError, match="not finite and symmetric"):
        frechet_from_statistics(good[0], torch.triu(torch.ones(4, 4)), good[0], torch.eye(4))
    with pytest.raises(UserError, match="below zero"):
        frechet_from_statistics(good[0], -torch.eye(4), good[0], torch.eye(4))
