"""Trends, equivalence, power and two crossed settings: equal to scipy, to published numbers and to other ways of
computing.
"""

import numpy as np
import pytest
from scipy import stats

from ovi_eval.stats.power import detectable_difference, detectable_margin, equivalence
from ovi_eval.stats.trends import trend
from ovi_eval.stats.two_way import two_way

# Ratings of tutorial, lecture and seminar by ten students: the example of scipy's page_trend_test, in the order in
# which it is predicted there.
RATINGS = [
    [3, 4, 3],
    [2, 2, 4],
    [3, 3, 5],
    [1, 3, 2],
    [2, 3, 2],
    [2, 4, 5],
    [1, 2, 4],
    [3, 4, 4],
    [2, 4, 5],
    [1, 3, 4],
]


def test_page_is_the_published_example_two_sided():
    found = trend(range(10), np.array(RATINGS, dtype=float), [1, 2, 3])
    assert found.test.p == pytest.approx(2 * 0.0018191161948127822, rel=1e-9)
    down = trend(range(10), -np.array(RATINGS, dtype=float), [1, 2, 3])
    assert (down.test.p, down.rho) == (found.test.p, -found.rho)


@pytest.mark.parametrize(
    ("scale", "at"), [("number", [2, 4, 16, 50]), ("log", [1, 2, 4, np.log2(50)]), ("rank", [1, 2, 3, 4])]
)
def test_slopes_and_rank_correlation_are_those_of_each_seed(scale, at):
    y = np.random.default_rng(3).normal(size=(3, 4)) + np.arange(4)
    found = trend([5, 6, 7], y, [2, 4, 16, 50], scale)
    slopes = [stats.linregress(at, of_seed).slope for of_seed in y]
    assert list(found.by_seed) == [5, 6, 7]
    assert list(found.by_seed.values()) == pytest.approx(slopes)
    low, high = stats.t.interval(0.95, 2, np.mean(slopes), stats.sem(slopes))
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert found.rho == pytest.approx(np.mean([stats.spearmanr(at, of_seed).statistic for of_seed in y]))


def test_seeds_that_do_not_move_show_no_trend():
    found = trend([0, 1], np.ones((2, 4)), [1, 2, 3, 4])
    assert (found.slope, found.rho) == (0, 0)
    assert found.test.p == pytest.approx(1)


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    d = [0.011, -0.004, 0.018, 0.002]
    found = equivalence(d, 0.02)
    below = stats.ttest_1samp(d, -0.02, alternative="greater").pvalue
    above = stats.ttest_1samp(d, 0.02, alternative="less").pvalue
    assert found.test.p == pytest.approx(max(below, above), rel=1e-12)
    low, high = stats.t.interval(0.9, 3, np.mean(d), stats.sem(d))
    assert (found.interval.low, found.interval.high, found.interval.level) == pytest.approx((low, high, 0.9))
    # p = 0.05 exactly where the 90 % interval meets the margin
    assert equivalence(d, high).test.p == pytest.approx(0.05)
    assert equivalence([0.01, 0.01], 0.02).test.p == 0
    assert equivalence([0.03, 0.03], 0.02).test.p == 1


def test_the_detectable_difference_agrees_with_the_table_of_sample_sizes():
    # of paired t at 5 % two-sided and 80 %: 34 pairs for half a standard deviation, 15 for 0.8 (Cohen 1988)
    assert detectable_difference(1, 34) < 0.5 < detectable_difference(1, 33)
    assert detectable_difference(1, 15) < 0.8 < detectable_difference(1, 14)
    assert detectable_difference(0.02, 10) == pytest.approx(0.02 * detectable_difference(1, 10))
    assert detectable_difference(0, 3) == 0


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_in_four_of_five_studies_the_detectable_is_seen(seeds):
    noise = np.random.default_rng(seeds).normal(size=(100_000, seeds))
    error = noise.std(axis=1, ddof=1) / np.sqrt(seeds)

    def share(delta, alpha, rejected):
        t = stats.t.ppf(1 - alpha, seeds - 1)
        return np.mean(rejected(noise.mean(axis=1) + delta, t * error))

    found = share(detectable_difference(1, seeds), 0.025, lambda mean, half: abs(mean) > half)
    assert found == pytest.approx(0.8, abs=0.005)
    margin = detectable_margin(1, seeds)
    assert share(0, 0.05, lambda mean, half: abs(mean) + half < margin) == pytest.approx(0.8, abs=0.005)
    least = detectable_margin(1, seeds, 0.025, one_side=True)
    assert share(0, 0.025, lambda mean, half: mean - half > -least) == pytest.approx(0.8, abs=0.005)


def test_two_settings_of_two_values_are_paired_t_tests_of_contrasts():
    y = np.random.default_rng(1).normal(size=(5, 2, 2)) + np.array([[0, 1], [0.5, 3]])
    found = two_way(y)
    first, second = y.mean(axis=2), y.mean(axis=1)
    together = y[:, 0, 0] - y[:, 0, 1] - y[:, 1, 0] + y[:, 1, 1]
    assert found.first.p == pytest.approx(stats.ttest_rel(first[:, 0], first[:, 1]).pvalue)
    assert found.second.p == pytest.approx(stats.ttest_rel(second[:, 0], second[:, 1]).pvalue)
    assert found.interaction.p == pytest.approx(stats.ttest_1samp(together, 0).pvalue)
    assert found.first.share + found.second.share + found.interaction.share == pytest.approx(1)


def test_the_analysis_of_variance_is_that_of_nested_linear_models():
    y = np.random.default_rng(2).normal(size=(4, 3, 5)) + np.arange(5) * np.arange(3)[:, None]
    s, a, b = (index.ravel() for index in np.indices(y.shape))

    def left(*terms):
        """Residual sum of squares of a linear model with the cells of these terms."""
        columns = [np.ones(y.size)]
        for term in terms:
            cells = np.unique(np.stack(term), axis=1, return_inverse=True)[1].ravel()
            columns += list(np.eye(cells.max() + 1)[cells].T)
        design = np.stack(columns, axis=1)
        return np.sum((y.ravel() - design @ np.linalg.lstsq(design, y.ravel(), rcond=None)[0]) ** 2)

    found = two_way(y)
    for effect, own, error, freedom in (
        (found.first, left() - left([a]), left([s], [a]) - left([s, a]), 3),
        (found.second, left() - left([b]), left([s], [b]) - left([s, b]), 3),
        (found.interaction, left([a], [b]) - left([a, b]), left([a, b], [s, a], [s, b]), 3),
    ):
        assert effect.f == pytest.approx(own / error * freedom)
        assert effect.p == pytest.approx(stats.f.sf(effect.f, 1, 3))


def test_what_varies_with_no_seed_has_no_test():
    y = np.broadcast_to(np.arange(6.0).reshape(2, 3), (3, 2, 3))
    assert (two_way(y).first.f, two_way(y).first.p) == (None, None)
    assert two_way(y).first.share == pytest.approx(1.5**2 / (1.5**2 + 2 / 3))
