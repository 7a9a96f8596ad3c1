"""Intervals cover what they should; tests agree with scipy and with enumeration by hand."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ovi_eval.errors import UserError
from ovi_eval.stats import differences, intervals
from ovi_eval.stats.differences import (
    compare_clips,
    compare_intervals,
    compare_seeds,
    holm,
    paired_t_test,
    sign_flip_test,
)
from ovi_eval.stats.intervals import (
    Interval,
    bootstrap_interval,
    crossed_bootstrap_interval,
    ends_of,
    generator,
    mean_interval,
    t_interval,
)


def test_t_interval_equals_scipy_and_needs_two_values():
    x = [0.81, 0.86, 0.89]
    found = t_interval(x)
    expected = stats.t.interval(0.95, 2, loc=np.mean(x), scale=stats.sem(x))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)
    assert found.n == 3
    assert t_interval([0.8]) is None


def test_a_t_interval_is_cut_where_a_share_ends_and_says_so():
    x = [0.97, 0.99, 0.9]
    full, cut = t_interval(x), t_interval(x, within=(0.0, 1.0))
    assert full.high > 1
    assert (cut.low, cut.high) == (full.low, 1.0)
    assert (full.method, cut.method) == ("t over seeds", "t over seeds, cut at 1")
    both = t_interval([0.02, 0.5, 0.98], within=(0.0, 1.0))
    assert (both.low, both.high, both.method) == (0.0, 1.0, "t over seeds, cut at 0 and 1")
    assert t_interval([0.4, 0.5, 0.6], within=(0.0, 1.0)) == t_interval([0.4, 0.5, 0.6])


def test_ends_are_those_that_clips_reach_and_none_passes():
    assert ends_of([0.0, 0.25, 1.0]) == (0.0, 1.0)
    assert ends_of([0.25, 1.0]) == (-np.inf, 1.0)
    assert ends_of([0.0, 0.3]) == (0.0, np.inf)
    assert ends_of([0.2, 0.7]) == (-np.inf, np.inf)  # a distance may be small by chance: nothing shows an end
    assert ends_of([0.0, 1.0, 1.2]) == ends_of([-0.1, 1.0]) == ends_of([]) == (-np.inf, np.inf)


def test_the_interval_of_a_runs_mean_knows_no_order_and_skips_missing_clips():
    x = np.random.default_rng(6).gamma(1.0, size=60)
    found = mean_interval(x, "sync_c")
    assert found.method == "bca bootstrap over clips"
    assert found.n == 60
    assert found.low < x.mean() < found.high
    mixed = np.random.default_rng(1).permutation(np.concatenate([x, [np.nan, np.nan]]))
    assert mean_interval(mixed, "sync_c") == found
    assert mean_interval(x, "sync_d") != found
    assert mean_interval([0.3, np.nan], "sync_c") is None


def test_paired_t_equals_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=8), rng.normal(size=8)
    assert paired_t_test(a - b).p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-12)
    assert paired_t_test([0.3]).p is None
    assert paired_t_test([0.0, 0.0]).p == 1.0
    assert paired_t_test([0.25, 0.25]).p == 0.0


@pytest.mark.parametrize(
    "d", [[0.5, -0.2, 0.9, 0.4, 0.1], [1.0, 1.0, 0.0, -1.0, 1.0, 1.0, 0.0], [1, 2, 3, 4, 5, 6, 7, 8]]
)
def test_sign_flips_equal_an_enumeration_by_hand(d):
    signs = list(itertools.product((1, -1), repeat=len(d)))
    extreme = [abs(sum(s * x for s, x in zip(row, d, strict=True))) >= abs(sum(d)) - 1e-12 for row in signs]
    found = sign_flip_test(d, generator(0))
    assert found.p == pytest.approx(np.mean(extreme), abs=1e-12)
    assert found.n == len(d)
    assert found.name.startswith("exact")


def test_sign_flips_agree_with_scipy_and_with_enumeration_beyond_the_exact_size():
    d = np.random.default_rng(3).normal(0.35, 1.0, size=40)
    found = sign_flip_test(d, generator(0))
    by_scipy = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(5)
    )
    assert found.p == pytest.approx(by_scipy.pvalue, abs=0.01)
    assert "20000 flips" in found.name
    assert sign_flip_test(np.full(60, 0.7), generator(0)).p == pytest.approx(1 / 20_001)
    assert sign_flip_test(np.zeros(30), generator(0)).p == 1.0
    assert sign_flip_test([], generator(0)).p is None


def test_sign_flips_hold_their_level():
    rng = np.random.default_rng(11)
    p = [sign_flip_test(rng.choice([-1.0, 0, 0, 1.0], size=60), rng, flips=400).p for _ in range(400)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08


def test_holm_equals_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, None, 0.03]) == [0.04, None, 0.04]
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_equals_scipy(method):
    x = np.random.default_rng(2).gamma(1.5, size=80)
    found = bootstrap_interval(x, generator(0), method=method, resamples=20_000)
    name, rng = {"percentile": "percentile", "bca": "BCa"}[method], np.random.default_rng(9)
    expected = stats.bootstrap((x,), np.mean, n_resamples=20_000, method=name, rng=rng)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.012)


def test_bootstrap_of_constant_few_and_unknown():
    assert bootstrap_interval([0.4], generator(0)) is None
    flat = bootstrap_interval(np.full(20, 0.4), generator(0))
    assert (flat.low, flat.high) == pytest.approx((0.4, 0.4))
    with pytest.raises(UserError, match="'jackknife' is unknown; choose percentile or bca"):
        bootstrap_interval([0.1, 0.2], generator(0), method="jackknife")


def test_bca_and_t_intervals_cover_the_truth():
    rng = np.random.default_rng(7)
    by_bca = by_t = 0
    for _ in range(250):
        skewed = rng.gamma(1.0, size=60)
        found = bootstrap_interval(skewed, rng, resamples=800)
        by_bca += found.low <= 1.0 <= found.high
        few = t_interval(rng.normal(1.0, 2.0, size=3))
        by_t += few.low <= 1.0 <= few.high
    assert 0.90 <= by_bca / 250 <= 0.98
    assert 0.92 <= by_t / 250 <= 0.98


def test_crossed_bootstrap_covers_when_seeds_and_clips_both_vary():
    rng = np.random.default_rng(8)
    covered = too_narrow = 0
    for _ in range(120):
        seeds, clips = rng.normal(0, 0.1, size=(6, 1)), rng.normal(0, 0.5, size=(1, 40))
        x_SN = seeds + clips + rng.normal(0, 0.3, size=(6, 40))
        found = crossed_bootstrap_interval(x_SN, rng, resamples=600)
        covered += found.low <= 0 <= found.high
        pooled = bootstrap_interval(x_SN.ravel(), rng, resamples=600)
        too_narrow += pooled.low <= 0 <= pooled.high
    assert covered / 120 >= 0.90
    assert too_narrow / 120 <= 0.75  # 240 values are not 240 clips: what the crossed one is for


def test_crossed_bootstrap_with_missing_clips_and_one_seed():
    x_SN = np.array([[0.0, 1.0, np.nan, 1.0], [1.0, np.nan, 1.0, 0.0]])
    found = crossed_bootstrap_interval(x_SN, generator(0))
    assert 0 <= found.low < 2 / 3 < found.high <= 1
    one = crossed_bootstrap_interval(x_SN[:1], generator(0))
    assert one == bootstrap_interval([0.0, 1.0, 1.0], generator(0))
    assert crossed_bootstrap_interval(np.ones((2, 1)), generator(0)) is None


def test_numbers_depend_on_the_seed_and_names_alone():
    draws = [generator(1, "none", "ball/onset_f1").random() for _ in range(2)]
    assert draws[0] == draws[1]
    assert generator(1, "none", "ball/onset_iou").random() != draws[0]
    assert generator(2, "none", "ball/onset_f1").random() != draws[0]


def test_comparison_over_clips_pairs_seeds_and_ids():
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 1, size=30)  # clips differ far more than the arms: only pairing sees the difference
    a = {s: {f"c{i}": hard[i] + 0.3 + rng.normal(0, 0.1) for i in range(30)} for s in (0, 1, 2)}
    b = {s: {f"c{i}": hard[i] + rng.normal(0, 0.1) for i in range(1, 30)} for s in (1, 2, 3)}
    found = compare_clips(a, b, lambda name: generator(0, name))
    assert (found.n_seeds, found.n_clips, set(found.by_seed)) == (2, 29, {1, 2})
    d = [a[s][f"c{i}"] - b[s][f"c{i}"] for s in (1, 2) for i in range(1, 30)]
    assert found.value == pytest.approx(np.mean(d))
    assert 0.2 < found.interval.low < 0.3 < found.interval.high
    assert found.test.p < 0.001
    back = compare_clips(b, a, lambda name: generator(0, name))
    assert back.value == pytest.approx(-found.value)
    assert back.test.p == pytest.approx(found.test.p)


def test_comparison_without_seeds_or_clips_in_common():
    a = {0: {"x": 1.0, "y": 0.0, "z": 1.0}, 1: {"x": 0.0, "y": 1.0, "z": 1.0}}
    b = {None: {"x": 0.0, "y": 0.0, "z": 1.0}}
    found = compare_clips(a, b, lambda name: generator(0, name))
    assert found.value == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert (found.n_seeds, found.by_seed) == (0, {})
    assert compare_clips(a, {0: {"q": 1.0}}, lambda name: generator(0, name)) is None


def test_comparison_over_seeds():
    found = compare_seeds({0: 4.0, 1: 4.4, 2: 3.9}, {0: 9.0, 1: 9.1, 2: 9.4, 7: 1.0})
    expected = stats.ttest_rel([4.0, 4.4, 3.9], [9.0, 9.1, 9.4])
    assert found.value == pytest.approx(-5.0666666)
    assert found.test.p == pytest.approx(expected.pvalue)
    assert found.test.n == found.n_seeds == 3
    interval = expected.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    lone, apart = compare_seeds({0: 4.0}, {0: 9.0}), compare_seeds({0: 4.0}, {1: 9.0, 2: 10.0})
    assert (lone.value, lone.test.p, lone.interval) == (-5, None, None)
    assert (apart.value, apart.test.p, apart.test.name) == (-5.5, None, "no seeds in common")


def test_seeds_that_are_not_paired_get_welch_as_scipy_has_it():
    a, b = {0: 4.0, 1: 4.4, 2: 3.9}, {0: 9.0, 11: 9.1, 12: 9.9, 13: 9.4}
    found = compare_seeds(a, b)
    expected = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False)
    assert found.value == pytest.approx(4.1 - 9.35)
    assert found.test.p == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.test.name == "Welch's t over seeds"
    interval = expected.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    same = compare_seeds({0: 1.0, 1: 1.0}, {2: 1.0, 3: 1.0})
    assert (same.value, same.test.p, same.interval.high) == (0.0, 1.0, 0.0)
    lone = compare_seeds(a, {0: 9.0})
    assert (lone.test.p, lone.interval) == (None, None)


def test_two_intervals_give_the_difference_of_normal_values():
    of_a, of_b = Interval(9.0, 11.0, "bootstrap", 50), Interval(5.0, 9.0, "bootstrap", 40)
    found = compare_intervals(10.0, of_a, 7.0, of_b)
    half = np.hypot(1.0, 2.0)  # standard errors of independent values add in squares
    assert found.value == 3.0
    assert (found.interval.low, found.interval.high) == pytest.approx((3 - half, 3 + half))
    assert found.test.p == pytest.approx(2 * stats.norm.sf(3 / (half / stats.norm.ppf(0.975))))
    assert "taken as independent" in found.interval.method
    assert found.test.n == 40


def test_lopsided_intervals_stay_lopsided_and_p_goes_with_the_interval():
    skewed = Interval(9.5, 14.0, "bootstrap", 50)
    found = compare_intervals(10.0, skewed, 9.0, Interval(8.9, 9.1, "bootstrap", 50))
    assert found.interval.high - found.value > 3 * (found.value - found.interval.low)
    for b in np.linspace(5.0, 15.0, 41):
        found = compare_intervals(10.0, skewed, b, Interval(b - 0.4, b + 0.9, "bootstrap", 50))
        assert (found.test.p < 0.05) == (found.interval.low > 0 or found.interval.high < 0), b
        back = compare_intervals(b, Interval(b - 0.4, b + 0.9, "bootstrap", 50), 10.0, skewed)
        assert back.test.p == pytest.approx(found.test.p)
        assert back.interval.low == pytest.approx(-found.interval.high)


def test_a_value_outside_its_own_interval_says_nothing_of_a_difference():
    biased, sound = Interval(11.0, 12.0, "bootstrap", 50), Interval(4.0, 6.0, "bootstrap", 50)
    assert compare_intervals(10.0, biased, 5.0, sound) is None
    assert compare_intervals(5.0, sound, 10.0, biased) is None


def test_the_interval_of_a_difference_from_two_intervals_covers_the_truth():
    rng = np.random.default_rng(12)
    covered = rejected = 0
    for _ in range(250):
        sides = [rng.gamma(1.0, size=40), rng.gamma(1.0, size=60)]
        own = [bootstrap_interval(x, rng, resamples=500) for x in sides]
        found = compare_intervals(sides[0].mean(), own[0], sides[1].mean(), own[1])
        covered += found.interval.low <= 0 <= found.interval.high
        rejected += found.test.p < 0.05
    assert 0.91 <= covered / 250 <= 0.98
    assert rejected == 250 - covered


def test_the_page_names_the_numbers_in_use():
    page = (Path(__file__).parents[3] / "docs" / "statistics.md").read_text(encoding="utf-8")
    page = " ".join(page.split())
    assert f"done with results by {intervals.SEED}," in page
    assert f"over clips, {intervals.RESAMPLES} resamples" in page
    assert (
        f"up to {differences.EXACT_FLIPS} differences that are not 0, else {differences.FLIPS} random" in page
    )
    for method in (t_interval([0.9, 1.0, 0.95], within=(0.0, 1.0)).method, "Welch's t"):
        assert method in page


def test_values_of_one_unit_are_drawn_together():
    rng = np.random.default_rng(3)
    values = rng.random(12)
    once = mean_interval(values, "m")
    copied = mean_interval(np.repeat(values, 5), "m", units=np.repeat(np.arange(12), 5).tolist())
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), rel=1e-3)
    assert (copied.n, copied.method) == (12, "bca bootstrap over distinct clips")
    assert mean_interval([0.5] * 9, "m", units=["a"] * 9) is None
    # One unit of two values and single ones: the interval is about the mean of all values.
    uneven = mean_interval([0.0, 0.0, 1.0, 0.5, 0.7, 0.2], "m", units=[0, 0, 1, 2, 3, 4])
    assert uneven.low < 0.4 < uneven.high
    assert uneven.n == 5


def test_the_cluster_bootstrap_holds_the_truth_where_copies_are_uneven():
    rng = np.random.default_rng(5)
    held = 0
    for trial in range(120):
        values, times = rng.normal(1.0, 1.0, 40), rng.integers(1, 6, 40)
        units = np.repeat(np.arange(40), times).tolist()
        draw = np.random.default_rng(trial)
        found = bootstrap_interval(np.repeat(values, times), draw, units=units, resamples=600)
        held += found.low <= 1.0 <= found.high
    assert held >= 104  # 95 % of 120 is 114; five standard deviations below is 102
