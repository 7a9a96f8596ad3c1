"""Several lists of shards trained on together, each with its weight (see `WeightedDraw`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovi_eval.common.shown import shown
from ovi_lab.common.values import check_settings
from ovi_lab.data.dataset import ClipDataset
from ovi_lab.data.shards import expand_shards
from ovi_lab.errors import UserError


@dataclass(frozen=True)
class Source:
    """Shards by pattern or list, and the share of an epoch's clips that come from them (None: as many as they have)."""

    shards: str | Sequence[str]
    weight: float | None = None

    @property
    def patterns(self) -> list[str]:
        return [self.shards] if isinstance(self.shards, str) else list(self.shards)

    def __str__(self) -> str:
        return shown(", ".join(self.patterns[:3]))


def parsed_sources(given: Sequence[Mapping[str, Any]]) -> list[Source]:
    """The sources that `data.sources` lists.

    Raises:
        UserError: an unknown or missing key, weights of some sources only, or weights that do not sum to 1.
    """
    check_settings("data", {"sources": given})
    sources = []
    for number, one in enumerate(given):
        if one.get("shards") is None:
            raise UserError(
                f"data.sources.{number} names no shards: expected {{shards: PATTERN, weight: SHARE}}"
            )
        sources.append(Source(one["shards"], one.get("weight")))
    if not sources:
        raise UserError("data.sources is empty: expected [{shards: PATTERN, weight: SHARE}, …]")
    weights = [source.weight for source in sources if source.weight is not None]
    if weights and len(weights) < len(sources):
        lacking = next(source for source in sources if source.weight is None)
        raise UserError(f"data.sources has no weight for {lacking}: give each source a weight, or none")
    if weights and abs(math.fsum(weights) - 1) > 1e-6:
        said = " + ".join(f"{weight:g}" for weight in weights)
        raise UserError(
            f"the weights of data.sources are {said} = {math.fsum(weights):g}; expected a sum of 1"
        )
    return sources


def source_counts(sources: Sequence[Source], dataset: ClipDataset) -> list[int]:
    """The usable clips of each source of a data set that has been opened on all their shards, in that order.

    Raises:
        UserError: a source has none.
    """
    counts, at = [], 0
    for source in sources:
        shards = len(expand_shards(source.shards))
        counts.append(sum(dataset.entries.counts[at : at + shards]))
        at += shards
        if not counts[-1]:
            names = {shard.name for shard in dataset.paths[at - shards : at]}
            reason = next((f"; {bad}" for bad in dataset.known_bad if bad.shard in names), "")
            raise UserError(f"data.sources: no usable clip in {source}{reason}")
    return counts
