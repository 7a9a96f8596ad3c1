"""What all metrics over clips share: values clip by clip, why a clip has none, and sums over processes.

Shapes: N clips, K values of one metric.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ..backbones.published import PublishedFile
from ..clipset import FAILED, ClipSet
from ..errors import EvalError
from ..frechet import frechet_distance

Direction = Literal["higher", "lower", "closer_to_reference"]
SILENT = 1e-4
"""Largest absolute sample below which sound counts as none at all (about 3 steps of 16 bits)."""


@dataclass(frozen=True)
class ValueSpec:
    """One number a metric gives: its key in results, which way is better, and its unit ("" for a ratio)."""

    key: str
    direction: Direction
    unit: str = ""


class OviMetric(Metric):
    """A metric that knows its name, version, variant and values.

    `version` rises whenever the same clips would give other numbers; `variant` names what else a number
    depends on (the judges). Values of other versions or variants are never compared.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    name: ClassVar[str]
    version: ClassVar[str]
    kind: ClassVar[Literal["mean", "frechet"]]
    values: ClassVar[tuple[ValueSpec, ...]]
    needs_judges: ClassVar[bool] = False
    needs_weights: ClassVar[PublishedFile | None] = None
    reasons: ClassVar[tuple[str, ...]] = (
        "",
        "marked as failed when it was made",
        "its sound is not finite",
        "its sound is silence",
    )
    variant: str = ""
    codes: list[Tensor]

    def failures(self) -> list[str | None]:
        """Why each clip, in the order seen, could not be scored; None where it was."""
        return [self.reasons[code] or None for code in dim_zero_cat(self.codes).tolist()]

    @staticmethod
    def faults(clips: ClipSet) -> Tensor:
        """For each clip the index of its reason for not being scored, 0 where there is none: [N] int64."""
        codes = [1 if row.get(FAILED) else 0 for row in clips.meta]
        codes_N = torch.tensor(codes, dtype=torch.long)
        finite_N = torch.isfinite(clips.waves_NS).all(dim=1)
        loud_N = clips.waves_NS.abs().amax(dim=1) >= SILENT
        codes_N = torch.where((codes_N == 0) & ~finite_N, 2, codes_N)
        return torch.where((codes_N == 0) & ~loud_N, 3, codes_N)

    def per_clip(self) -> dict[str, Tensor]:
        """Each value clip by clip, in the order seen: [N] float64, NaN where a clip has none. Empty for
        sets.
        """
        return {}

    def coverage(self) -> dict[str, tuple[int, float]]:
        """For each value the number of clips it rests on, and their share of those that should have it."""
        codes_N = dim_zero_cat(self.codes)
        count = int((codes_N == 0).sum())
        return {spec.key: (count, count / max(len(codes_N), 1)) for spec in self.values}


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
        """The distance; NaN for fewer than two clips. Raises EvalError without two clips to compare with."""
        key = self.values[0].key
        references, scored = (
            dim_zero_cat(x) if len(x) else torch.zeros(0, 1) for x in (self.references, self.scored)
        )
        if len(references) < 2:
            raise EvalError(f"{key} compares with real clips and got {len(references)}; give a reference")
        if len(scored) < 2:
            return {key: torch.tensor(torch.nan, dtype=torch.float64)}
        return {key: torch.tensor(frechet_distance(scored, references), dtype=torch.float64)}
