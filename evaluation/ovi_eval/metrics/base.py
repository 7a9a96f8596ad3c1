"""Extractors give features of clips, metrics make values of features: what all of them share.

An extractor works in two steps, so that the next clips are decoded while the network looks at this one: `load`
decodes and prepares, on any thread; `run` is the network. Features are cached by what the clip holds.

Metrics are fed with features, clip by clip, and know each clip's place. States are concatenated over processes and put
in the order of the clips, so that several processes give the numbers of one.

Shapes: N clips, R rows of features (a clip may have several), K values, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ovi_eval.clips.items import Item
from ovi_eval.common.needs import Need
from ovi_eval.common.processes import CPU
from ovi_eval.results.files import Direction, MetricKind
from ovi_eval.stats.intervals import Interval

Features = dict[str, Tensor]


@dataclass(frozen=True)
class ValueSpec:
    """One number a metric gives: its key in results, which way is better, and its unit ("" for a ratio)."""

    key: str
    direction: Direction
    unit: str = ""


class Extractor(ABC):
    """A network with its way of preparing clips.

    `version` rises whenever the same clip would give other features; `variant` (weights, choices) and
    `preprocessing` say what else they depend on. `weights` is the sha256 of each weight file by its name,
    `provenance` what else results should say of them. `reads_caption`: whether the clip's caption matters beside its
    picture and sound. `batch`: how many clips `run_batch` takes at once.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    needs: ClassVar[tuple[Need, ...]] = ()
    preprocessing: ClassVar[str] = ""
    reads_caption: ClassVar[bool] = False
    batch: ClassVar[int] = 1
    variant: str = ""

    def __init__(self, device: torch.device = CPU) -> None:
        """Finds and loads the weights. Raises UserError where something that is needed is not there."""
        self.device = device
        self.weights: dict[str, str] = {}
        self.provenance: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """All that the features of a clip depend on besides the clip."""
        return f"{self.name} v{self.version}; {self.variant}; {self.preprocessing}"

    def notes(self, items: Sequence[Item]) -> tuple[str, ...]:
        """What to tell beside the numbers of these clips, such as texts of which only a part is read."""
        return ()

    @abstractmethod
    def load(self, item: Item) -> Any:
        """What `run` takes, decoded and prepared. Raises UserError with the reason a clip has no features."""

    @abstractmethod
    def run(self, loaded: Any) -> Features:
        """The features of one clip. Raises UserError with the reason where it has none."""

    def run_batch(self, loaded: Sequence[Any]) -> list[Features]:
        """The features of several clips. May raise for all of them if one has none; each is then run alone."""
        return [self.run(each) for each in loaded]


Compared = Literal["alone", "pairs", "sets"]


@dataclass(frozen=True)
class Details:
    """Details of a value: its interval over clips, and for sets the dimension and small-sample bias."""

    interval: Interval | None = None
    dimension: int | None = None
    bias: float | None = None
    warnings: tuple[str, ...] = ()


class ItemMetric(Metric):
    """A metric over the features that `extractor` gives.

    `compares`: "alone" looks at the scored clips only; "pairs" at each beside the reference clip of the same
    id; "sets" at all scored against all reference clips. `version` rises whenever the same features would
    give other numbers; `variant` is that of the extractor. `by_default`: whether it is scored where no metric is named.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    kind: ClassVar[MetricKind]
    values: ClassVar[tuple[ValueSpec, ...]]
    extractor: ClassVar[type[Extractor]]
    compares: ClassVar[Compared]
    by_default: ClassVar[bool] = True

    def __init__(self, **kwargs: Any) -> None:
        # The runner synchronises once, before it reads values, clips and details.
        super().__init__(sync_on_compute=False, **kwargs)

    def applies(self, caption: str) -> Sequence[bool]:
        """For each of `values`, whether a clip with this caption should have it; the others do not lower coverage."""
        return (True,) * len(self.values)

    def agree(self, width: int) -> None:
        """Before synchronising: `width` is the largest `row_width` of all processes."""

    @property
    def row_width(self) -> int:
        """How many numbers a row of this process's states has, 0 where it has seen nothing."""
        return 0

    def per_clip(self, count: int) -> dict[str, Tensor]:
        """Each value of clips 0 to `count`: [N] float64, NaN where a clip has none. Empty for sets."""
        return {}

    def have(self) -> dict[str, int]:
        """How many clips each value rests on."""
        raise TypeError(f"{type(self).__name__} has no have()")

    def details(self, seed: int, resamples: int) -> dict[str, Details]:
        """The details of each value; `resamples` 0 leaves the intervals out."""
        return {}


class ItemMean(ItemMetric):
    """A metric whose value is the mean over clips. Subclasses give `measure`.

    States: `places` [N] int64, the clips' places; `scores` [N, K] float64, NaN where a clip has no such value.
    """

    kind: ClassVar[MetricKind] = "mean"
    compares: ClassVar[Compared] = "alone"
    places: list[Tensor]
    scores: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("places", "scores"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        """One value for each of `values`, NaN for one that the clip lacks.

        `reference`: the features of the clip with the same id, for a metric over pairs. Raises UserError with
        the reason where the clip has no value at all.
        """
        raise TypeError(f"{type(self).__name__} has no measure()")

    def update(
        self, place: int, features: Features, reference: Features | None = None, caption: str = ""
    ) -> None:
        """Scores one clip. Raises UserError as `measure`; the clip is then missing."""
        found = self.measure(features, reference)
        if len(found) != len(self.values):
            raise TypeError(f"{self.name} has {len(self.values)} values, measure() gave {len(found)}")
        found = [x if here else float("nan") for x, here in zip(found, self.applies(caption), strict=True)]
        self.scores.append(torch.tensor([found], dtype=torch.float64))
        self.places.append(torch.tensor([place]))

    def compute(self) -> dict[str, Tensor]:
        """The mean of each value over the clips that have it; NaN where none has."""
        return {
            spec.key: column.nanmean() for spec, column in zip(self.values, self.ordered().T, strict=True)
        }

    def ordered(self) -> Tensor:
        """All scores [N, K], in the order of the clips."""
        self.agree(len(self.values))
        return dim_zero_cat(self.scores)[dim_zero_cat(self.places).argsort()]

    def agree(self, width: int) -> None:
        if not len(self.scores) and isinstance(self.scores, list):  # synchronised states are tensors
            self.scores.append(torch.zeros(0, len(self.values), dtype=torch.float64))
            self.places.append(torch.zeros(0, dtype=torch.long))

    def per_clip(self, count: int) -> dict[str, Tensor]:
        self.agree(len(self.values))
        all_NK = torch.full((count, len(self.values)), torch.nan, dtype=torch.float64)
        all_NK[dim_zero_cat(self.places)] = dim_zero_cat(self.scores)
        return dict(zip([spec.key for spec in self.values], all_NK.T, strict=True))

    def have(self) -> dict[str, int]:
        counts = (~self.ordered().isnan()).sum(dim=0).tolist()
        return dict(zip([spec.key for spec in self.values], counts, strict=True))


class ItemSet(ItemMetric):
    """A value of all clips together, or of all scored and all reference clips. Subclasses give `value`.

    States, for scored and reference clips each: features [R, D] float32, and the clip of each row [R] int64.
    """

    kind: ClassVar[MetricKind] = "frechet"
    compares: ClassVar[Compared] = "sets"
    feature: ClassVar[str]
    scored: list[Tensor]
    scored_places: list[Tensor]
    references: list[Tensor]
    reference_places: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("scored", "scored_places", "references", "reference_places"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self._copies: tuple[Mapping[int, int], Mapping[int, int]] = ({}, {})

    def take_as_one(self, scored: Mapping[int, int], reference: Mapping[int, int]) -> None:
        """Says which clips are copies of which by content, as the first one's place by place; see `measured`."""
        self._copies = (scored, reference)

    def measured(self, reference: bool = False) -> tuple[Tensor, Tensor]:
        """As `ordered`, but copies of a clip have its place: what an interval over clips draws together."""
        rows_RD, places_R = self.ordered(reference)
        copies = self._copies[int(reference)]
        return rows_RD, torch.tensor(
            [copies.get(place, place) for place in places_R.tolist()], dtype=torch.long
        )

    def distinct(self, reference: bool = False) -> Tensor:
        """Features [R, D] of the clips that are no copies of others."""
        rows_RD, places_R = self.ordered(reference)
        first_R = self.measured(reference)[1] == places_R
        return rows_RD[first_R]

    def value(self, scored_RD: Tensor, reference_RD: Tensor | None) -> dict[str, float]:
        """The values by key; NaN where there are too few clips of either kind."""
        raise TypeError(f"{type(self).__name__} has no value()")

    def update(self, place: int, features: Features, reference: bool = False) -> None:
        """Adds a clip to the scored ones, or to those they are compared with."""
        rows_RD = features[self.feature].detach().cpu()
        rows_RD = rows_RD[None] if rows_RD.dim() == 1 else rows_RD
        places_R = torch.full((len(rows_RD),), place)
        (self.references if reference else self.scored).append(rows_RD)
        (self.reference_places if reference else self.scored_places).append(places_R)

    @property
    def row_width(self) -> int:
        for state in (self.scored, self.references):
            if len(state):
                return dim_zero_cat(state).shape[1]
        return 0

    def agree(self, width: int) -> None:
        for rows, places in (
            (self.scored, self.scored_places),
            (self.references, self.reference_places),
        ):
            if not len(rows) and isinstance(rows, list):  # synchronised states are tensors
                rows.append(torch.zeros(0, width))
                places.append(torch.zeros(0, dtype=torch.long))

    def ordered(self, reference: bool = False) -> tuple[Tensor, Tensor]:
        """Features [R, D] and the clip of each row [R], in the order of the clips."""
        self.agree(self.row_width)
        rows_RD = dim_zero_cat(self.references if reference else self.scored)
        places_R = dim_zero_cat(self.reference_places if reference else self.scored_places)
        order = places_R.argsort(stable=True)
        return rows_RD[order], places_R[order]

    def compute(self) -> dict[str, Tensor]:
        scored_RD, reference_RD = self.ordered()[0], self.ordered(reference=True)[0]
        found = self.value(scored_RD, reference_RD if self.compares == "sets" else None)
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in found.items()}

    def have(self) -> dict[str, int]:
        count = int(self.ordered()[1].unique().numel())
        return {spec.key: count for spec in self.values}
