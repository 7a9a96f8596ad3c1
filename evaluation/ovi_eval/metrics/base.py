"""Extractors give features of clips, metrics make values of features: what all of them share.

An extractor works in two steps, so that the next clips are decoded while the network looks at this one: `load`
decodes and prepares, on any thread; `run` is the network. Features are cached by what the clip holds.

Metrics are fed with features, clip by clip, and know each clip's place. States are concatenated over processes and put
in the order of the clips, so that several processes give the numbers of one.

Shapes: N clips, R rows of features (a clip may have several), K values, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ovi_eval.clips.items import Item
from ovi_eval.common.needs import Need
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import LoadedNetwork, Network
from ovi_eval.results.files import Direction, MetricKind
from ovi_eval.stats.intervals import Interval

Features = dict[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class ValueSpec:
    """One number a metric gives: its key in results, which way is better, and its unit ("" for a ratio).

    `title` is its name in words, of a metric of another package; those here have theirs in `results.metric_titles`.
    """

    key: str
    direction: Direction
    unit: str = ""
    title: str = ""


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

    def take(self, loaded: LoadedNetwork[Network]) -> Network:
        """The network on this extractor's device; results name its weights from now on."""
        self.weights[loaded.path.name] = loaded.sha256
        self.variant = loaded.variant
        return loaded.network.to(self.device)

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
    states: ClassVar[tuple[tuple[str, str], ...]]
    """For the scored clips, and for the reference where one is kept: the states of rows and of the rows' clips."""
    row_type: ClassVar[torch.dtype] = torch.float32

    def __init__(self, **kwargs: Any) -> None:
        # The runner synchronises once, before it reads values, clips and details.
        super().__init__(sync_on_compute=False, **kwargs)
        for state in chain.from_iterable(self.states):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def applies(self, caption: str) -> Sequence[bool]:
        """For each of `values`, whether a clip with this caption should have it; the others do not lower coverage."""
        return (True,) * len(self.values)

    def agree(self, width: int) -> None:
        """Makes empty states tensors, before synchronising: `width` is the largest `row_width` of all processes."""
        for rows, places in ((getattr(self, name) for name in pair) for pair in self.states):
            if not len(rows) and isinstance(rows, list):  # synchronised states are tensors
                rows.append(torch.zeros(0, width, dtype=self.row_type))
                places.append(torch.zeros(0, dtype=torch.long))

    @property
    def row_width(self) -> int:
        """How many numbers a row of this process's states has, 0 where it has seen nothing."""
        return next(
            (dim_zero_cat(rows).shape[1] for name, _ in self.states if len(rows := getattr(self, name))), 0
        )

    def ordered(self, reference: bool = False) -> tuple[Tensor, Tensor]:
        """All rows [R, D] and the clip of each row [R], in the order of the clips."""
        self.agree(self.row_width)
        rows_RD, places_R = (dim_zero_cat(getattr(self, name)) for name in self.states[int(reference)])
        order = places_R.argsort(stable=True)
        return rows_RD[order], places_R[order]

    def add(self, rows_RD: Tensor, place: int, reference: bool = False) -> None:
        """Keeps the rows of one clip."""
        rows, places = (getattr(self, name) for name in self.states[int(reference)])
        rows.append(rows_RD)
        places.append(torch.full((len(rows_RD),), place))

    def per_clip(self, count: int) -> dict[str, Tensor]:
        """Each value of clips 0 to `count`: [N] float64, NaN where a clip has none. Empty for sets."""
        return {}

    @abstractmethod
    def have(self) -> dict[str, int]:
        """How many clips each value rests on."""

    def details(self, seed: int, resamples: int) -> dict[str, Details]:
        """The details of each value; `resamples` 0 leaves the intervals out."""
        return {}


class ItemMean(ItemMetric):
    """A metric whose value is the mean over clips. Subclasses give `measure`.

    States: `places` [N] int64, the clips' places; `scores` [N, K] float64, NaN where a clip has no such value.
    """

    kind: ClassVar[MetricKind] = "mean"
    compares: ClassVar[Compared] = "alone"
    states = (("scores", "places"),)
    row_type = torch.float64

    @property
    def row_width(self) -> int:
        return len(self.values)

    @abstractmethod
    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        """One value for each of `values`, NaN for one that the clip lacks.

        `reference`: the features of the clip with the same id, for a metric over pairs. Raises UserError with
        the reason where the clip has no value at all.
        """

    def update(
        self, place: int, features: Features, reference: Features | None = None, caption: str = ""
    ) -> None:
        """Scores one clip. Raises UserError as `measure`; the clip is then missing."""
        found = self.measure(features, reference)
        if len(found) != len(self.values):
            raise TypeError(f"{self.name} has {len(self.values)} values, measure() gave {len(found)}")
        found = [x if here else float("nan") for x, here in zip(found, self.applies(caption), strict=True)]
        self.add(torch.tensor([found], dtype=torch.float64), place)

    def compute(self) -> dict[str, Tensor]:
        """The mean of each value over the clips that have it; NaN where none has."""
        return self._by_key(column.nanmean() for column in self.ordered()[0].T)

    def per_clip(self, count: int) -> dict[str, Tensor]:
        scores_NK, places_N = self.ordered()
        all_NK = torch.full((count, len(self.values)), torch.nan, dtype=torch.float64)
        all_NK[places_N] = scores_NK
        return self._by_key(all_NK.T)

    def have(self) -> dict[str, int]:
        return self._by_key((~self.ordered()[0].isnan()).sum(dim=0).tolist())

    def _by_key(self, of_values: Iterable[T]) -> dict[str, T]:
        return dict(zip([spec.key for spec in self.values], of_values, strict=True))


class ItemSet(ItemMetric):
    """A value of all clips together, or of all scored and all reference clips. Subclasses give `value`.

    States, for scored and reference clips each: features [R, D] float32, and the clip of each row [R] int64.
    """

    kind: ClassVar[MetricKind] = "frechet"
    compares: ClassVar[Compared] = "sets"
    states = (("scored", "scored_places"), ("references", "reference_places"))
    feature: ClassVar[str]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
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

    @abstractmethod
    def value(self, scored_RD: Tensor, reference_RD: Tensor) -> dict[str, float]:
        """The values by key; NaN where there are too few clips of either kind."""

    def update(self, place: int, features: Features, reference: bool = False) -> None:
        """Adds a clip to the scored ones, or to those they are compared with."""
        rows_RD = features[self.feature].detach().cpu()
        self.add(rows_RD[None] if rows_RD.dim() == 1 else rows_RD, place, reference)

    def compute(self) -> dict[str, Tensor]:
        found = self.value(self.ordered()[0], self.ordered(reference=True)[0])
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in found.items()}

    def have(self) -> dict[str, int]:
        count = int(self.ordered()[1].unique().numel())
        return {spec.key: count for spec in self.values}


Kind = TypeVar("Kind", bound=ItemMetric)


def variant_of(base: type[Kind], name: str, **choices: Any) -> type[Kind]:
    """A metric of that name that differs from `base` in its choices; its one value, if none are given, has its name."""
    values = (ValueSpec(name, "lower"),)
    return type(name, (base,), {"name": name, "values": values, "__doc__": base.__doc__, **choices})
