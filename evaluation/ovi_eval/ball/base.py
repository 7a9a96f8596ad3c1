"""What the ball world's metrics share: clips in memory, values clip by clip, and a distance to reference clips.

Shapes: N clips, K values of one metric, D features.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import OviMetric
from ovi_eval.stats.frechet import frechet_distance


class ClipMetric(OviMetric):
    """A metric whose value is the mean over clips. Subclasses give `measure`.

    States, all concatenated over processes: `scores` [N, K] float64, NaN where a clip has no such value;
    `applies` [N, K], False where a value has no meaning for the clip; `codes` [N], why a clip failed (0: it
    did not).
    """

    kind = "mean"
    scores: list[Tensor]
    applies: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("scores", "applies", "codes"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def measure(self, clips: ClipSet) -> tuple[Tensor, Tensor]:
        """Values [N, K] of sound clips, and which reason each clip fails for [N] (0: none)."""
        raise TypeError(f"{type(self).__name__} has no measure()")

    def applicable(self, clips: ClipSet) -> Tensor:
        """Which values have a meaning for which clips, [N, K]."""
        return torch.ones(len(clips), len(self.values), dtype=torch.bool)

    def update(self, clips: ClipSet) -> None:
        """Scores some clips. A clip that cannot be scored is kept as missing, with the reason."""
        codes_N = self.faults(clips)
        applies_NK = self.applicable(clips)
        scores_NK = torch.full(applies_NK.shape, float("nan"), dtype=torch.float64)
        rows = (codes_N == 0).nonzero().flatten()
        if len(rows):
            found_MK, why_M = self.measure(clips[rows])
            scores_NK[rows] = torch.where((why_M == 0)[:, None], found_MK.detach().double().cpu(), torch.nan)
            codes_N[rows] = why_M
        scores_NK[~applies_NK] = torch.nan
        self.scores.append(scores_NK)
        self.applies.append(applies_NK)
        self.codes.append(codes_N)

    def compute(self) -> dict[str, Tensor]:
        """The mean of each value over the clips that have it; NaN where none has."""
        return {
            spec.key: column.nanmean()
            for spec, column in zip(self.values, dim_zero_cat(self.scores).T, strict=True)
        }

    def per_clip(self) -> dict[str, Tensor]:
        return dict(zip([spec.key for spec in self.values], dim_zero_cat(self.scores).T, strict=True))

    def coverage(self) -> dict[str, tuple[int, float]]:
        have, should = ~dim_zero_cat(self.scores).isnan(), dim_zero_cat(self.applies)
        return {
            spec.key: (int(have[:, k].sum()), float(have[:, k].sum() / max(int(should[:, k].sum()), 1)))
            for k, spec in enumerate(self.values)
        }


class FrechetMetric(OviMetric):
    """A Fréchet distance to reference clips. Subclasses give `features`.

    States, all concatenated over processes: features of reference and of scored clips, float32 [N, D];
    `codes` [N], why a clip was left out (0: it was not).
    """

    kind = "frechet"
    references: list[Tensor]
    scored: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("references", "scored", "codes"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def features(self, clips: ClipSet) -> Tensor:
        """Features [N, D] of sound clips."""
        raise TypeError(f"{type(self).__name__} has no features()")

    def update(self, clips: ClipSet, reference: bool = False) -> None:
        """Adds clips to be scored, or those they are compared with. Clips that failed are left out."""
        codes_N = self.faults(clips)
        rows = (codes_N == 0).nonzero().flatten()
        if len(rows):
            (self.references if reference else self.scored).append(self.features(clips[rows]).detach().cpu())
        if not reference:
            self.codes.append(codes_N)

    def compute(self) -> dict[str, Tensor]:
        """The distance; NaN for fewer than two clips. Raises UserError without two clips to compare with."""
        key = self.values[0].key
        references, scored = (
            dim_zero_cat(x) if len(x) else torch.zeros(0, 1) for x in (self.references, self.scored)
        )
        if len(references) < 2:
            raise UserError(f"{key} compares with real clips and got {len(references)}; give a reference")
        if len(scored) < 2:
            return {key: torch.tensor(torch.nan, dtype=torch.float64)}
        return {key: torch.tensor(frechet_distance(scored, references), dtype=torch.float64)}
