"""Two crossed settings, paired by seed: main effects and their interaction.

Shapes: S seeds, A values of the first setting, B of the second.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy import special

from ovi_eval.stats.intervals import Array


@dataclass(frozen=True)
class Effect:
    """`share` of the variation between the cells' means that is due to it, in [0, 1]; `f` is None where nothing varies
    from seed to seed.
    """

    share: float
    f: float | None
    p: float | None


@dataclass(frozen=True)
class Effects:
    first: Effect
    second: Effect
    interaction: Effect
    n_seeds: int


def two_way(y_SAB: Array) -> Effects:
    """Repeated-measures analysis of variance with two factors within seeds; at least two of each, none missing.

    Each effect is tested against its own interaction with the seeds. p values take the lower bound of the degrees of
    freedom, 1 and S - 1, which needs no assumption on how the values of a seed go together (Geisser and Greenhouse
    1958), so they are if anything too large.
    """
    seeds, first, second = y_SAB.shape
    mean = y_SAB.mean()
    of_S = y_SAB.mean(axis=(1, 2)) - mean
    of_A, of_B = y_SAB.mean(axis=(0, 2)) - mean, y_SAB.mean(axis=(0, 1)) - mean
    of_AB = y_SAB.mean(axis=0) - mean - of_A[:, None] - of_B
    with_SA = y_SAB.mean(axis=2) - mean - of_S[:, None] - of_A
    with_SB = y_SAB.mean(axis=1) - mean - of_S[:, None] - of_B
    rest_SAB = (
        y_SAB
        - mean
        - of_S[:, None, None]
        - of_A[:, None]
        - of_B
        - of_AB
        - with_SA[:, :, None]
        - with_SB[:, None]
    )
    sums = [
        (seeds * second * (of_A**2).sum(), second * (with_SA**2).sum()),
        (seeds * first * (of_B**2).sum(), first * (with_SB**2).sum()),
        (seeds * (of_AB**2).sum(), (rest_SAB**2).sum()),
    ]
    total = sum(effect for effect, _ in sums)
    of_first, of_second, together = (_effect(effect, error, total, seeds) for effect, error in sums)
    return Effects(of_first, of_second, together, seeds)


def _effect(effect: float, error: float, total: float, seeds: int) -> Effect:
    # the degrees of freedom of the error are S - 1 times those of the effect, which cancel
    share = float(effect / total) if total > 0 else 0.0
    if error <= 1e-24 * max(total, 1e-300):
        return Effect(share, None, None)
    f = float(effect / error * (seeds - 1))
    return Effect(share, f, float(special.fdtrc(1, seeds - 1, f)))
