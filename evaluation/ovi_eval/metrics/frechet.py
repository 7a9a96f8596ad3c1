"""The field's Fréchet distances: FAD in VGGish, FD in PANNs, and FVD in I3D with each variant's choices.

Features agree with the reference implementations (see `sound_features` and `i3d_features`); the distance is the
one of `ovi_eval.stats.frechet`. FAD's features are one for each 0.96 s, so a clip gives several; FD's and FVD's are one
a clip.

Shapes: R rows of features, D features.
"""

from __future__ import annotations

from torch import Tensor

from ovi_eval.metrics.base import Details, Extractor, ItemSet, variant_of
from ovi_eval.metrics.i3d_features import FVD
from ovi_eval.metrics.sound_features import PannsFeatures, VGGishFeatures
from ovi_eval.stats.frechet import frechet_distance
from ovi_eval.stats.frechet_intervals import affordable, frechet_interval, frechet_warnings, small_sample_bias
from ovi_eval.stats.intervals import generator


def too_few(scored_RD: Tensor, reference_RD: Tensor) -> str:
    """Why two sets have no distance, "" where they have one."""
    for which, rows_RD in (("scored", scored_RD), ("reference", reference_RD)):
        if len(rows_RD) < 2:
            return f"a distance needs two rows of features or more, the {which} set has {len(rows_RD)}"
    return ""


class FrechetOfSets(ItemSet):
    """The Fréchet distance of all scored clips' features to all reference clips'. Its one value has its name."""

    feature = "features"

    def value(self, scored_RD: Tensor, reference_RD: Tensor) -> dict[str, float]:
        none = too_few(scored_RD, reference_RD)
        return {self.name: float("nan") if none else frechet_distance(scored_RD, reference_RD)}

    def details(self, seed: int, resamples: int) -> dict[str, Details]:
        """Interval over clips, dimension, small-sample bias, and a warning where rows are fewer than features."""
        key = self.name
        (scored_RD, clips_R), (reference_RD, others_R) = self.measured(), self.measured(reference=True)
        if none := too_few(scored_RD, reference_RD):
            return {key: Details(warnings=(none,))}
        dimension = scored_RD.shape[1]
        resamples = affordable(resamples, len(scored_RD) + len(reference_RD), dimension)
        return {
            key: Details(
                interval=frechet_interval(
                    scored_RD, clips_R, reference_RD, others_R, generator(seed, key, "interval"), resamples
                ),
                dimension=dimension,
                bias=small_sample_bias(
                    scored_RD,
                    reference_RD,
                    generator(seed, key, "bias"),
                    scored_clips_N=clips_R,
                    reference_clips_M=others_R,
                ),
                warnings=frechet_warnings(len(scored_RD), dimension)
                + frechet_warnings(len(reference_RD), dimension, "reference"),
            )
        }


def frechet_metric(name: str, extractor: type[Extractor], feature: str = "features") -> type[FrechetOfSets]:
    """The Fréchet distance in one feature of an extractor, as a metric whose value has its name."""
    return variant_of(FrechetOfSets, name, extractor=extractor, feature=feature)


_ROWS: tuple[tuple[str, type[Extractor]], ...] = (
    *FVD.items(),
    ("fad_vggish", VGGishFeatures),  # 128 features, without the last ReLU and without PCA
    ("fd_panns", PannsFeatures),  # Cnn14's 2048 features
)
FRECHET = {name: frechet_metric(name, extractor) for name, extractor in _ROWS}
"""The published variants by name; which choices they make is in their extractors."""
