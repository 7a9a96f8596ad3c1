"""The field's Fréchet distances: FAD in VGGish, FD in PANNs, and FVD in I3D with each variant's choices.

Features agree with the reference implementations (see `sound_features` and `i3d_features`); the distance is the
one of `ovi_eval.stats.frechet`. FAD's features are one for each 0.96 s, so a clip gives several; FD's and FVD's are one
a clip.

Shapes: R rows of features, D features.
"""

from __future__ import annotations

from torch import Tensor

from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Details, ItemSet, ValueSpec
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


class FadVGGish(FrechetOfSets):
    """Fréchet audio distance in VGGish's 128 features, without its last ReLU and without PCA."""

    name = "fad_vggish"
    values = (ValueSpec("fad_vggish", "lower"),)
    extractor = VGGishFeatures


class FdPanns(FrechetOfSets):
    """Fréchet distance in Cnn14's 2048 features."""

    name = "fd_panns"
    values = (ValueSpec("fd_panns", "lower"),)
    extractor = PannsFeatures


class FvdStyleganV(FrechetOfSets):
    """FVD as StyleGAN-V's code has it."""

    name = "fvd_stylegan_v"
    values = (ValueSpec("fvd_stylegan_v", "lower"),)
    extractor = StyleganVFeatures


class FvdVideoGPT(FrechetOfSets):
    """FVD as VideoGPT's code has it."""

    name = "fvd_videogpt"
    values = (ValueSpec("fvd_videogpt", "lower"),)
    extractor = VideoGPTFeatures


class FvdPytorchI3D(FrechetOfSets):
    """FVD in the I3D of pytorch-i3d, with its eps of 1e-3."""

    name = "fvd_pytorch_i3d"
    values = (ValueSpec("fvd_pytorch_i3d", "lower"),)
    extractor = PytorchI3DFeatures


class FvdCdFvd(FrechetOfSets):
    """FVD of whole frames drawn to 224x224, as content-debiased FVD's code prepares them for I3D."""

    name = "fvd_cd_fvd"
    values = (ValueSpec("fvd_cd_fvd", "lower"),)
    extractor = CdFvdFeatures
