"""Bias, interval, extrapolation and kernel distance: a published curve, known populations and bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ovi_eval.errors import UserError
from ovi_eval.stats.frechet import frechet_distance
from ovi_eval.stats.frechet_intervals import (
    affordable,
    frechet_infinity,
    frechet_interval,
    frechet_warnings,
    line_to_infinity,
    small_sample_bias,
)
from ovi_eval.stats.intervals import generator
from ovi_eval.stats.kernel_distance import kernel_distance, kernel_interval


def normal(count: int, size: int, seed: int, *, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, size, generator=drawn, dtype=torch.float64) + shift


@pytest.mark.parametrize("count", [128, 256, 512, 1024, 2048])
def test_bias_of_equal_populations_is_the_whole_distance(goldens: Path, count: int) -> None:
    """The golden's curve: two samples of N(0, I) in 64 dimensions, whose distance is nothing but bias."""
    curve = json.loads((goldens / "stats_golden.json").read_text())["small_sample_bias_same_dist_d64"]
    x, y = normal(count, 64, 1), normal(count, 64, 2)
    assert small_sample_bias(x, y, generator(0, "bias")) == pytest.approx(dict(curve)[count], rel=0.1)


def test_bias_of_apart_populations() -> None:
    """In 16 dimensions the true distance of N(0, 1) and N(0.5, 1.3²) in each is 16 (0.25 + 0.09)."""
    found, bias = [], []
    for seed in range(20):
        x, y = normal(200, 16, seed, scale=1.3, shift=0.5), normal(200, 16, 100 + seed)
        found.append(frechet_distance(x, y))
        bias.append(small_sample_bias(x, y, generator(seed, "bias")))
    assert np.mean(found) - np.mean(bias) == pytest.approx(16 * 0.34, rel=0.05)
    assert np.mean(found) > 1.12 * 16 * 0.34


def test_fewer_rows_than_features_have_a_bias_from_below_and_a_warning(goldens: Path) -> None:
    curve = json.loads((goldens / "stats_golden.json").read_text())["small_sample_bias_same_dist_d64"]
    estimate = small_sample_bias(normal(32, 64, 1), normal(32, 64, 2), generator(0, "bias"))
    assert estimate is not None
    assert 0.3 * dict(curve)[32] < estimate < dict(curve)[32]
    assert frechet_warnings(64, 64) == ()
    (warning,) = frechet_warnings(32, 64, "reference")
    assert warning.startswith("32 rows of 64 features in the reference set: fewer rows than features")


@pytest.mark.parametrize(
    ("size", "count", "rows", "widest"),
    [(8, 400, 1, 1.3), (8, 100, 5, 1.3), (64, 32, 1, 1.9)],
    ids=["many clips", "clips of five rows", "fewer clips than features"],
)
def test_interval_is_as_wide_as_distances_of_other_clips_differ(
    size: int, count: int, rows: int, widest: float
) -> None:
    def sets(seed: int) -> tuple[Tensor, Tensor]:
        # A clip's rows share half of what they are, so that counting rows as clips would be too sure.
        pair = []
        for side in range(2):
            shared = normal(count, size, 2 * seed + side, scale=1 if rows > 1 else 0)
            own = normal(count * rows, size, 1000 + 2 * seed + side, scale=1.2 if side else 1.0)
            pair.append(shared.repeat_interleave(rows, dim=0) + own + 0.3 * side)
        return pair[0], pair[1]

    clips = torch.arange(count).repeat_interleave(rows)
    true = np.std([frechet_distance(*sets(seed)) for seed in range(60)], ddof=1)
    errors = []
    for seed in range(5):
        x, y = sets(seed)
        interval = frechet_interval(x, clips, y, clips, generator(seed, "interval"), 80)
        assert interval is not None
        assert interval.n == count
        value = frechet_distance(x, y)
        assert interval.high - value == pytest.approx(value - interval.low)
        errors.append((interval.high - value) / 1.96)
    assert 0.75 * true < np.mean(errors) < widest * true
    if rows > 1:
        x, y = sets(0)
        as_clips = frechet_interval(x, None, y, None, generator(0, "interval"), 80)
        assert as_clips is not None
        assert (as_clips.high - frechet_distance(x, y)) / 1.96 < 0.75 * true


def test_interval_is_seeded_ends_at_zero_and_tells_how_far_it_is() -> None:
    x, y = normal(40, 6, 1), normal(50, 6, 2)
    told: list[int] = []
    one = frechet_interval(x, None, y, None, generator(3, "fad"), 20, told.append)
    assert told == list(range(1, 21))
    assert one == frechet_interval(x, None, y, None, generator(3, "fad"), 20)
    assert one != frechet_interval(x, None, y, None, generator(4, "fad"), 20)
    itself = frechet_interval(x, None, x, None, generator(3, "fad"), 20)
    assert itself is not None
    assert itself.low == 0 < itself.high
    # Clips are what is drawn, whatever the order of their rows.
    clips, order = torch.arange(40) // 2, torch.randperm(40, generator=torch.Generator().manual_seed(0))
    told_apart = frechet_interval(x, clips, y, None, generator(3, "fad"), 20)
    mixed = frechet_interval(x[order], clips[order], y, None, generator(3, "fad"), 20)
    assert told_apart is not None
    assert mixed is not None
    assert mixed.high == pytest.approx(told_apart.high, rel=1e-9)


def test_large_resamples_are_fewer() -> None:
    assert affordable(200, 2048, 400) == 200
    assert affordable(200, 512, 2048) == 200
    assert affordable(200, 20_000, 128) == 200
    assert affordable(200, 10_000, 2048) == 40
    assert 40 < affordable(200, 2000, 1024) < 200
    assert affordable(0, 10_000, 2048) == 0


def test_sets_too_small_have_neither_interval_nor_bias() -> None:
    y = normal(9, 4, 2)
    assert frechet_interval(normal(2, 4, 1), None, y, None, generator(0), 20) is None
    assert frechet_interval(normal(10, 4, 1), torch.arange(10) // 5, y, None, generator(0), 20) is None
    assert frechet_interval(y, None, y, None, generator(0), 0) is None
    assert small_sample_bias(normal(3, 4, 1), y, generator(0)) is None
    assert small_sample_bias(normal(4, 4, 1), y, generator(0)) is not None
    with pytest.raises(UserError, match=r"scored set has 10 rows of features and clips of shape \[9\]"):
        frechet_interval(normal(10, 4, 1), torch.arange(9), y, None, generator(0), 20)
    with pytest.raises(UserError, match=r"4 and 3"):
        small_sample_bias(y, y[:, :3], generator(0))


def test_a_line_needs_two_sizes() -> None:
    with pytest.raises(UserError, match=r"at two sizes or more, got \[500\.0\]"):
        line_to_infinity([(500, 1.0), (500, 2.0)])


def test_extrapolation_draws_as_the_reference_does() -> None:
    """Each distance is that of the rows which numpy's legacy generator picks."""
    x, y = normal(1500, 8, 1, shift=0.2), normal(300, 8, 2)
    found = frechet_infinity(x, y)
    state = np.random.get_state()
    np.random.seed(0)
    picked = [np.random.choice(len(x), size=size, replace=True) for size, _ in found.points]
    np.random.set_state(state)
    assert [value for _, value in found.points] == pytest.approx(
        [frechet_distance(x[torch.from_numpy(rows)], y) for rows in picked], rel=1e-10
    )
    assert frechet_infinity(x, y, seed=1).value != found.value


def test_extrapolation_takes_off_what_drawing_adds() -> None:
    """Draws with replacement are of the scored rows, so what is left is the distance of these as they are."""
    x, y = normal(3000, 32, 1, shift=0.2), normal(20000, 32, 2)
    found = frechet_infinity(x, y)
    assert found.r2 > 0.7
    assert found.slope > 0
    assert found.points[0][1] > 1.3 * frechet_distance(x, y)
    assert found.value == pytest.approx(frechet_distance(x, y), rel=0.06)


def test_extrapolation_of_few_rows_is_told() -> None:
    with pytest.raises(UserError, match="more than 500 rows of features, got 500; score more clips"):
        frechet_infinity(normal(500, 4, 1), normal(500, 4, 2))
    assert frechet_infinity(normal(20, 2, 1), normal(20, 2, 2), fewest=10).points[0][0] == 10


def test_kernel_matrices_part_by_part_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(60, 5, 1), normal(50, 5, 2, shift=0.3)
    whole, interval = kernel_distance(x, y, subsets=9, size=20), kernel_interval(x, y)
    monkeypatch.setattr("ovi_eval.stats.kernel_distance.KEPT", 110 * 7)
    assert kernel_distance(x, y, subsets=9, size=20) == pytest.approx(whole, rel=1e-12)
    assert kernel_interval(x, y) == pytest.approx(interval, rel=1e-12)


def test_kernel_interval_covers_and_is_no_wider_than_it_must() -> None:
    """The mean over many draws is the true discrepancy, as the estimate has no bias at any number of clips."""
    intervals = []
    for seed in range(60):
        x, y = normal(80, 6, seed, shift=0.4), normal(70, 6, 500 + seed)
        intervals.append(kernel_interval(x, y))
    middles = np.array([(low + high) / 2 for low, high in intervals])
    true = middles.mean()
    covered = sum(low <= true <= high for low, high in intervals)
    assert 53 <= covered <= 60
    halves = np.array([(high - low) / 2 for low, high in intervals])
    assert halves.mean() == pytest.approx(1.96 * middles.std(ddof=1), rel=0.3)
    same = np.mean([kernel_distance(normal(30, 6, s), normal(30, 6, 90 + s), size=30)[0] for s in range(40)])
    assert abs(same) < 0.03


def test_faults_of_kernel_distances_are_told() -> None:
    x = normal(10, 4, 1)
    for call, text in (
        (lambda: kernel_distance(x, x, size=11), r"\(10 and 10\), got 100 of 11"),
        (lambda: kernel_distance(x, x[:, :3], size=5), "4 and 3"),
        (lambda: kernel_distance(x, x * torch.nan, size=5), "KID needs finite features; the second set"),
        (lambda: kernel_distance(x[:1], x, size=2), r"KID needs features \[N, D\] with N >= 2"),
        (lambda: kernel_interval(x[:2], x), "3 clips or more in either set, got 2 and 10"),
    ):
        with pytest.raises(UserError, match=text):
            call()
