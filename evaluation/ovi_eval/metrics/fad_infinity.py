"""FAD-infinity: the Fréchet audio distance in VGGish, extrapolated to infinitely many rows of features.

As fadtk has it (Gui et al. 2024, "Adapting Fréchet Audio Distance for generative music evaluation"), see
`ovi_eval.stats.frechet_intervals.frechet_infinity`: 25 sizes from 500 rows to all, drawn by numpy's RandomState(0).

Shapes: R rows of features, D features.
"""

from __future__ import annotations

from torch import Tensor

from ovi_eval.metrics.base import Details, ItemSet, ValueSpec
from ovi_eval.metrics.frechet import too_few
from ovi_eval.metrics.sound_features import VGGishFeatures
from ovi_eval.stats.frechet_intervals import FEWEST, frechet_infinity


class FadInfVGGish(ItemSet):
    """FAD-infinity in VGGish's 128 features; NaN for 500 rows of them or fewer, about 8 minutes of sound."""

    name = "fad_inf_vggish"
    values = (ValueSpec("fad_inf_vggish", "lower"),)
    extractor = VGGishFeatures
    feature = "features"

    def value(self, scored_RD: Tensor, reference_RD: Tensor) -> dict[str, float]:
        enough = len(scored_RD) > FEWEST and not too_few(scored_RD, reference_RD)
        return {self.name: frechet_infinity(scored_RD, reference_RD).value if enough else float("nan")}

    def details(self, seed: int, resamples: int) -> dict[str, Details]:
        """The dimension, and why there is no value. There is no interval: one would repeat every fit."""
        scored_RD, reference_RD = self.ordered()[0], self.ordered(reference=True)[0]
        rows, dimension = scored_RD.shape
        none = too_few(scored_RD, reference_RD)
        if rows <= FEWEST:
            none = f"extrapolates from more than {FEWEST} rows of features and got {rows}; take fad_vggish"
        return {self.name: Details(dimension=dimension, warnings=(none,) if none else ())}
