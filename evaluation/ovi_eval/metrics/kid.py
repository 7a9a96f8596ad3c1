"""KID of a clip's sound: the kernel distance in Cnn14's features, unbiased at any number of clips.

See `ovi_eval.stats.kernel_distance`: degree 3, gamma 1 / 2048, c 1; the mean over 100 subsets of 100 clips, drawn by
numpy's RandomState(2020). Published code mostly takes subsets of 1000, of which few sets of clips have enough;
the mean is the same, only its spread is not.

Shapes: R rows of features, D features.
"""

from __future__ import annotations

from torch import Tensor

from ovi_eval.metrics.base import Details, ItemSet, ValueSpec
from ovi_eval.metrics.sound_features import PannsFeatures
from ovi_eval.stats.intervals import Interval
from ovi_eval.stats.kernel_distance import SIZE, kernel_distance, kernel_interval

FEWEST = 3
"""Clips that differ, of either set, that an interval needs."""


class KidPanns(ItemSet):
    """Kernel distance in Cnn14's 2048 features; NaN where either set has fewer than 100 clips."""

    name = "kid_panns"
    values = (ValueSpec("kid_panns", "lower"),)
    extractor = PannsFeatures
    feature = "features"

    def value(self, scored_RD: Tensor, reference_RD: Tensor) -> dict[str, float]:
        enough = min(len(scored_RD), len(reference_RD)) >= SIZE
        return {self.name: kernel_distance(scored_RD, reference_RD)[0] if enough else float("nan")}

    def details(self, seed: int, resamples: int) -> dict[str, Details]:
        """The dimension, a jackknife interval over clips, and why there is no value."""
        scored_RD, reference_RD = self.ordered()[0], self.ordered(reference=True)[0]
        fewest, dimension = min(len(scored_RD), len(reference_RD)), scored_RD.shape[1]
        if fewest < SIZE:
            short = f"draws subsets of {SIZE} clips and the smaller set has {fewest}; score more clips"
            return {self.name: Details(dimension=dimension, warnings=(short,))}
        interval = None
        own_RD, others_RD = self.distinct(), self.distinct(reference=True)
        if resamples and min(len(own_RD), len(others_RD)) >= FEWEST:
            low, high = kernel_interval(own_RD, others_RD)
            interval = Interval(low, high, "jackknife standard error over clips", len(own_RD))
        return {self.name: Details(interval, dimension)}
