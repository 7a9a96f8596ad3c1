"""How often the intervals of `ovi_eval.stats.intervals` hold the truth, and how often its tests cry wolf.

Prints a Markdown table: each line draws many made-up studies whose truth is known. The values are such as
metrics give: shares that pile up at their ends, skewed distances, means of few seeds.

    python benchmarks/interval_coverage.py [--studies 2000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from ovi_eval.stats import differences as d
from ovi_eval.stats import intervals as s

Array = np.ndarray
RESAMPLES = 1000


def shares(rng: np.random.Generator, n: int) -> Array:
    """Values in [0, 1] of which many are exactly 1, as an F1 of few events; mean 0.8."""
    return np.minimum(1.0, np.round(rng.beta(2.4, 0.6, size=n) * 6) / 6)


def distances(rng: np.random.Generator, n: int) -> Array:
    """Skewed values above 0, mean 1."""
    return rng.gamma(1.0, size=n)


def of_a_mean(draw: Callable[[np.random.Generator, int], Array], n: int, truth: float) -> Iterator[bool]:
    for study in count():
        rng = s.generator(study, "mean", n)
        found = s.bootstrap_interval(draw(rng, n), rng, resamples=RESAMPLES)
        yield found is not None and found.low <= truth <= found.high


def of_seeds(n: int, cut: bool) -> Iterator[bool]:
    truth, spread = 0.97, 0.03
    for study in count():
        rng = s.generator(study, "seeds", n)
        values = truth + rng.normal(0, spread, size=n).clip(-1, 1 - truth)
        centre = truth + _mean_of_clipped(spread, 1 - truth)
        found = s.t_interval(values, within=(0.0, 1.0) if cut else (-np.inf, np.inf))
        yield found is not None and found.low <= centre <= found.high


def _mean_of_clipped(spread: float, top: float) -> float:
    return float(np.random.default_rng(0).normal(0, spread, size=1_000_000).clip(-1, top).mean())


def crossed(seeds: int, clips: int) -> Iterator[bool]:
    for study in count():
        rng = s.generator(study, "crossed", seeds, clips)
        x_SN = rng.normal(0, 0.1, size=(seeds, 1)) + rng.normal(0, 0.5, size=(1, clips))
        found = s.crossed_bootstrap_interval(
            x_SN + rng.normal(0, 0.3, size=(seeds, clips)), rng, resamples=RESAMPLES
        )
        yield found is not None and found.low <= 0 <= found.high


def of_two_intervals(n: int) -> Iterator[bool]:
    for study in count():
        rng = s.generator(study, "two", n)
        sides = [distances(rng, n), distances(rng, 2 * n)]
        own = [s.bootstrap_interval(x, rng, resamples=RESAMPLES) for x in sides]
        if own[0] is None or own[1] is None:
            raise SystemExit("too few values for an interval")
        found = d.compare_intervals(float(sides[0].mean()), own[0], float(sides[1].mean()), own[1])
        yield (
            found is not None
            and found.interval is not None
            and found.interval.low <= 0 <= found.interval.high
        )


def flips(n: int) -> Iterator[bool]:
    for study in count():
        rng = s.generator(study, "flips", n)
        p = d.sign_flip_test(shares(rng, n) - shares(rng, n), rng, flips=RESAMPLES).p
        yield p is not None and p < 0.05


def welch(n: int) -> Iterator[bool]:
    for study in count():
        rng = s.generator(study, "welch", n)
        sides = [rng.normal(0, 1.0, size=n), rng.normal(0, 3.0, size=n + 1)]
        a, b = ({seed + 100 * i: float(v) for seed, v in enumerate(x)} for i, x in enumerate(sides))
        p = d.compare_seeds(a, b).test.p
        yield p is not None and p < 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    of_shares = float(shares(np.random.default_rng(1), 4_000_000).mean())
    held: list[tuple[str, Iterator[bool]]] = [
        *((f"BCa over {n} clips, shares", of_a_mean(shares, n, of_shares)) for n in (10, 40, 200)),
        *((f"BCa over {n} clips, skewed distances", of_a_mean(distances, n, 1.0)) for n in (10, 40, 200)),
        ("t over 3 seeds of a share near 1", of_seeds(3, cut=False)),
        ("the same, cut at 1", of_seeds(3, cut=True)),
        *((f"bootstrap over {k} seeds x 40 clips", crossed(k, 40)) for k in (2, 3, 6)),
        ("difference of two single values by their intervals", of_two_intervals(40)),
    ]
    wolf = [
        *((f"sign flips over {n} clips, shares", flips(n)) for n in (10, 40)),
        ("Welch's t, 3 and 4 seeds, spread 1 to 3", welch(3)),
    ]
    for heading, lines in (
        ("95 % interval | holds the truth", held),
        ("test at p < 0.05 | without any difference", wolf),
    ):
        print(f"| {heading} |\n|---|--:|")
        for name, study in lines:
            share = np.mean([next(study) for _ in range(studies)])
            print(f"| {name} | {100 * share:.1f} % |", flush=True)
        print()


if __name__ == "__main__":
    main()
