"""Distances between sets of features, inception score and KL: numbers from generated features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ovi_eval.check.case import Cases, Setting
from ovi_eval.check.generated import gaussian
from ovi_eval.check.lines import Line, close, same
from ovi_eval.stats.frechet import frechet_distance, frechet_from_statistics
from ovi_eval.stats.frechet_intervals import frechet_infinity, line_to_infinity
from ovi_eval.stats.inception import inception_score, kl_divergences
from ovi_eval.stats.kernel_distance import kernel_distance

CASES = Cases()
STATS, EXTRA_JSON = "stats_golden.json", "extra_golden.json"
AV_BENCHMARK = "av-benchmark@050a5cdb"


@CASES.case("frechet.diagonal", "Fréchet distance", f"{AV_BENCHMARK}; closed form", f"{STATS}: diag_analytic")
def diagonal(setting: Setting) -> Iterator[Line]:
    given = setting.goldens.json(STATS, "diag_analytic")
    mu1, mu2, var1, var2 = (torch.tensor(given[key]).double() for key in ("mu1", "mu2", "var1", "var2"))
    found = frechet_from_statistics(mu1, torch.diag(var1), mu2, torch.diag(var2))
    why = "float64 on both sides"
    yield close("diagonal covariances, closed form", found, given["analytic"], rtol=1e-12, why=why)
    yield close("diagonal covariances, reference", found, given["av_benchmark"], rtol=1e-12, why=why)


@CASES.case(
    "frechet.small_sample_bias", "Fréchet distance", AV_BENCHMARK, f"{STATS}: small_sample_bias_same_dist_d64"
)
def small_sample_bias(setting: Setting) -> Iterator[Line]:
    generator = torch.Generator().manual_seed(64)
    for count, expected in setting.goldens.json(STATS, "small_sample_bias_same_dist_d64"):
        draws = torch.randn(12, 2, int(count), 64, generator=generator, dtype=torch.float64)
        found = np.array([frechet_distance(x_ND, y_ND) for x_ND, y_ND in draws])
        # The golden is one draw, whose features are unknown: as far off as one draw lies from the mean.
        spread = 4 * float(found.std(ddof=1))
        why = "N(0, I); the golden is one random draw; four standard deviations of draws of our own"
        quantity = f"two sets of {count}, d=64, mean of 12 draws"
        yield close(quantity, float(found.mean()), expected, rtol=0, atol=spread, why=why)


CASES.not_run(
    "frechet.reference_features",
    "Fréchet distance",
    f"{AV_BENCHMARK}; JunyaoHu@5f751734; fadtk@ec74b1f9",
    f"{STATS}: cases",
    reason="the golden does not say how its features were made",
)


@CASES.case("frechet.fad_infinity", "FAD-infinity", "fadtk@ec74b1f9", f"{STATS}: fad_inf_fadtk_seed0")
def fad_infinity(setting: Setting) -> Iterator[Line]:
    # The golden does not say how its features were made: its distances are taken as they stand.
    golden = setting.goldens.json(STATS, "fad_inf_fadtk_seed0")
    points = golden["points"]
    generator = torch.Generator().manual_seed(0)
    of_any = frechet_infinity(*(torch.randn(n, 4, generator=generator) for n in (points[-1][0], 100)))
    yield same("sizes of 25 samples", [size for size, _ in of_any.points], [size for size, _ in points])
    line = line_to_infinity([(size, distance) for size, distance in points])
    why = "float64 on both sides, a fit of 25 points"
    for what, found, key in (
        ("at infinity", line.value, "fad_inf"),
        ("slope over 1 / n", line.slope, "slope"),
        ("r²", line.r2, "r2"),
    ):
        yield close(f"line through them, {what}", found, golden[key], rtol=1e-9, why=why)


@CASES.case("kid.features", "KID", AV_BENCHMARK, f"{EXTRA_JSON}: kid_av_benchmark")
def kid(setting: Setting) -> Iterator[Line]:
    golden = setting.goldens.json(EXTRA_JSON, "kid_av_benchmark")
    first = torch.from_numpy(gaussian("kid1", 300 * 64)).reshape(300, 64)
    second = 1.1 * torch.from_numpy(gaussian("kid2", 280 * 64)).reshape(280, 64) + 0.1
    found = kernel_distance(first, second, subsets=20, size=100, seed=2020)
    why = "float64 on both sides, sums in another order"
    for what, value in zip(("mean", "std"), found, strict=True):
        expected = golden[f"kernel_inception_distance_{what}"]
        shown = f"{what} of 20 subsets of 100, seed 2020"
        yield close(shown, value, expected, rtol=1e-9, atol=1e-12, why=why)


def _logits(key: str, rows: int, classes: int) -> Tensor:
    drawn = torch.from_numpy(gaussian(key, rows * classes)).reshape(rows, classes)
    return (3 * drawn).float()


@CASES.case("inception.score", "IS (PANNs)", AV_BENCHMARK, f"{STATS}: isc_av_benchmark")
def inception(setting: Setting) -> Iterator[Line]:
    expected = setting.goldens.json(STATS, "isc_av_benchmark")
    logits_NC = _logits("is_pred", expected["N"], expected["C"])
    for name, splits, seed in (
        ("splits10_shuffle_seed2020", 10, 2020),
        ("splits1_noshuffle", 1, None),
        ("splits10_noshuffle", 10, None),
    ):
        mean, spread = inception_score(logits_NC, splits, seed)
        wanted = setting.goldens.json(STATS, "isc_av_benchmark", name)
        why = "float64 on both sides"
        shown = f"{splits} splits, {'seed 2020' if seed else 'not shuffled'}"
        yield close(f"mean, {shown}", mean, wanted["inception_score_mean"], rtol=1e-9, why=why)
        yield close(f"spread, {shown}", spread, wanted["inception_score_std"], rtol=1e-7, atol=1e-12, why=why)


@CASES.case("kl.divergence", "KL (PANNs)", AV_BENCHMARK, f"{STATS}: kl_av_benchmark")
def kl(setting: Setting) -> Iterator[Line]:
    shape = setting.goldens.json(STATS, "isc_av_benchmark")
    expected = setting.goldens.json(STATS, "kl_av_benchmark")
    predicted, real = (_logits(expected[key], shape["N"], shape["C"]) for key in ("pred", "gt"))
    for over in ("softmax", "sigmoid"):
        found = float(kl_divergences(predicted, real, over).mean())
        why = "the reference sums in float32"
        yield close(f"KL(gt || pred) over {over}", found, expected[f"kl_{over}"], rtol=1e-6, why=why)
