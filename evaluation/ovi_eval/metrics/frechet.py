"""The field's Fréchet distances: FAD in VGGish, FD in PANNs, and FVD in I3D with each variant's choices.

Features agree with the reference implementations (see `sound_features` and `i3d_features`); the distance is the
one of `ovi_eval.stats.frechet`. FAD's features are one for each 0.96 s, so a clip gives several; FD's and FVD's are one
a clip.

Shapes: R rows of features, D features.
"""

from __future__ import annotations

from torch import Tensor

from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Details, Extractor, ItemSet, ValueSpec
from ovi_eval.metrics.i3d_features import (
    CdFvdFeatures,
    PytorchI3DFeatures,
    StyleganVFeatures,
    VideoGPTFeatures,
)
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


def compared_with(key: str, reference_RD: Tensor | None) -> Tensor:
    """The reference features of a metric over sets. Raises UserError where there is no reference at all."""
    if reference_RD is None:
        raise UserError(f"{key} compares with real clips; give a reference")
    return reference_RD


class FrechetOfSets(ItemSet):
    """The Fréchet distance of all scored clips' features to all reference clips'. Its one value has its name."""

    feature = "features"

    def value(self, scored_RD: Tensor, reference_RD: Tensor | None) -> dict[str, float]:
        key = self.values[0].key
        reference_RD = compared_with(key, reference_RD)
        none = too_few(scored_RD, reference_RD)
        return {key: float("nan") if none else frechet_distance(scored_RD, reference_RD)}

    def details(self, seed: int, resamples: int) -> dict[str, Details]:
        """Interval over clips, dimension, small-sample bias, and a warning where rows are fewer than features."""
        key = self.values[0].key
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
    choices = {
        "name": name,
        "values": (ValueSpec(name, "lower"),),
        "extractor": extractor,
        "feature": feature,
    }
    return type(name, (FrechetOfSets,), {**choices, "__module__": __name__})


FRECHET: dict[str, type[FrechetOfSets]] = {
    name: frechet_metric(name, extractor)
    for name, extractor in (
        ("fvd_stylegan_v", StyleganVFeatures),
        ("fvd_videogpt", VideoGPTFeatures),
        ("fvd_pytorch_i3d", PytorchI3DFeatures),  # I3D with an eps of 1e-3
        ("fvd_cd_fvd", CdFvdFeatures),  # whole frames drawn to 224x224, as content-debiased FVD has them
        ("fad_vggish", VGGishFeatures),  # 128 features, without the last ReLU and without PCA
        ("fd_panns", PannsFeatures),  # Cnn14's 2048 features
    )
}
"""The published variants by name; which choices they make is in their extractors."""
