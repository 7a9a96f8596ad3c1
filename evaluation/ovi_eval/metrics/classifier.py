"""What Cnn14's 527 AudioSet logits say of sounds: inception score of a set, and KL divergence pair by pair.

See `isc_kl` for the definitions. Both are taken through PANNs as most video-to-audio papers report them.

Shapes: R clips, C classes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from ovi_eval.metrics.base import Compared, Details, Features, ItemMean, ItemSet, ValueSpec
from ovi_eval.metrics.sound_features import PannsFeatures
from ovi_eval.results.files import MetricKind
from ovi_eval.stats.inception import inception_jackknife, inception_score, kl_divergences
from ovi_eval.stats.intervals import Interval

SPLITS = 10
NORMAL_95 = 1.959964
"""Standard errors on either side of a mean that hold 95 % of a normal distribution."""


class IsPanns(ItemSet):
    """Inception score over 10 parts, the clips put in order by RandomState(2020); NaN for fewer than 10 clips."""

    name = "is_panns"
    kind: ClassVar[MetricKind] = "set"
    compares: ClassVar[Compared] = "alone"
    values = (ValueSpec("is_panns", "higher"),)
    extractor = PannsFeatures
    feature = "logits"

    def value(self, scored_RD: Tensor, reference_RD: Tensor) -> dict[str, float]:
        enough = len(scored_RD) >= SPLITS
        return {self.name: inception_score(scored_RD, SPLITS)[0] if enough else float("nan")}

    def details(self, seed: int, resamples: int) -> dict[str, Details]:
        """A jackknife interval over clips, and the small-sample bias: few clips score too low."""
        logits_RC = self.ordered()[0]
        count = len(logits_RC)
        if count < SPLITS:
            short = f"is the mean over {SPLITS} parts of the clips, of which there are {count}"
            return {self.name: Details(warnings=(short,))}
        own_RC = self.distinct()
        if len(own_RC) < 2 * SPLITS:
            return {}
        score, (error, bias) = inception_score(logits_RC, SPLITS)[0], inception_jackknife(own_RC, SPLITS)
        interval = None
        if resamples:
            method = "jackknife standard error over clips"
            interval = Interval(
                max(score - NORMAL_95 * error, 1.0), score + NORMAL_95 * error, method, len(own_RC)
            )
        return {self.name: Details(interval, bias=bias)}


class KlPanns(ItemMean):
    """KL(real || generated) of the softmax over the classes, each clip beside the reference of the same id."""

    name = "kl_panns"
    compares: ClassVar[Compared] = "pairs"
    values = (ValueSpec("kl_panns", "lower", "nat"),)
    extractor = PannsFeatures
    over: ClassVar[Literal["softmax", "sigmoid"]] = "softmax"

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        assert reference is not None  # as this metric compares pairs
        return kl_divergences(features["logits"][None], reference["logits"][None], self.over).tolist()


class KlSigmoidPanns(KlPanns):
    """The same sum over each class's own probability, which is no divergence but is reported as one."""

    name = "kl_sigmoid_panns"
    values = (ValueSpec("kl_sigmoid_panns", "lower", "nat"),)
    over = "sigmoid"
