"""One loader for latents and media: any shards, a seeded order, instant resume, bad samples skipped within limits.

The order is a function of (seed, epoch, position), never of the number of workers; so the loader's state is two
numbers, and a run resumed in the middle of an epoch, with other workers if need be, sees the batches it would have
seen. (torchdata's StatefulDataLoader ties its state to the number of workers.)

Lightning steps at the end of its epoch, whatever it has accumulated by then. So its epochs are not those of the
clips, but runs of whole accumulated groups from the endless sequence of epochs.

Shape suffixes: B clips, C channels, F h w latent frames, rows, columns, L tokens, n words, E text channels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ovi_lab.data.batch_order import EpochSampler, Place
from ovi_lab.data.buckets import Buckets, Pick
from ovi_lab.data.dataset import NO_CODEC, RATES, SKIPPED, ClipDataset, Sample
from ovi_lab.data.index import LATENT_PARTS, BadSample
from ovi_lab.data.prefetch import Prefetcher
from ovi_lab.data.weighted_draw import WeightedDraw
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

ERROR = "_error"
NAMED = 1000  # bad samples known from the indexes that are named one by one
KIND = "kind"
"""Of a batch of a data set whose clips may lack modalities: what its clips are, of `KINDS`."""
KINDS = ("both", "sound", "silent_video", "still")
ABSENT = "absent"
"""Of such a batch: the modalities that are read and its clips lack."""
REPEATED = "repeated"
"""Marks a batch that another rank has too, so that all have as many."""
BAD_BEFORE_STOPPING = 20  # fewer bad samples than this stop nothing, whatever their share


class ClipLoader(DataLoader[Sample]):
    """Batches {"id", "caption", "meta"} and of what the data set gives "video" [B,C,F,h,w], "audio" [B,L,C] (lists
    where the shapes differ) and "text" (a list of [n,E]).

    Not shuffled, batch n is on rank n modulo `world_size`; where these do not divide the number of batches, some ranks
    end with a batch that is marked `REPEATED`.

    An iteration over the training clips continues where the last one stopped, and has as many batches as an epoch on
    this rank, in whole groups.

    Bad samples are counted and named: each warned of once, all in one line at the end of an epoch; too many of them
    stop the run.

    Args:
        dataset: the clips.
        batch_size: clips a batch on this rank, where `buckets` are not given.
        shuffle: in a seeded order without the remainder (training); else in order and all of them.
        seed, rank, world_size: of the order.
        name: the name in messages.
        buckets: which clips share a batch and how many; None: those of one shape, `batch_size` of them.
        prefetch: batches made ready while the one before is used.
        device: a GPU that batches are copied to meanwhile.
        max_bad_share: of the clips met, this many may be bad.
        group: batches that an optimiser step accumulates: only between groups can a run be resumed.
        limit: of the batches of an epoch, see `EpochSampler`; not shuffled, of those of all ranks together.
        draw: which clips an epoch takes, see `EpochSampler`.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int = 16,
        shuffle: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        name: str = "train",
        buckets: Buckets | None = None,
        prefetch: int = 0,
        device: torch.device | None = None,
        max_bad_share: float = 1.0,
        group: int = 1,
        limit: float = 1.0,
        draw: WeightedDraw | None = None,
    ) -> None:
        if buckets is None:
            buckets = Buckets(dataset.shapes, batch_size)
        if "media" in dataset.kinds and dataset.codec is None:
            raise UserError(NO_CODEC.format(dataset.paths[0]))
        self.clips, self.name = dataset, name
        self.order = EpochSampler(buckets, seed, rank, world_size, group, limit, draw) if shuffle else None
        self.prefetch, self.device, self.max_bad_share = prefetch, device, max_bad_share
        self.bad: dict[tuple[str, str], BadSample] = {}
        self.waited_s = 0.0
        """Seconds that training has waited for batches."""
        self._met = 0
        self._stated: set[tuple[int, int]] = set()
        self._resumable = Place(0, 0)
        own: Any = self.order
        self._own = 0
        """Batches of this rank that no other has, where they are not shuffled."""
        if not shuffle:  # lists of all clips, which training has no use for
            own, self._own = _in_turn(buckets.in_order(), limit, rank, world_size)
        super().__init__(
            _Guarded(dataset),
            batch_sampler=own,
            num_workers=num_workers,
            collate_fn=collate,
            # The loader draws from its generator at every epoch; the global one stays as training left it.
            generator=torch.Generator(),
        )
        self._note(dataset.known_bad[:NAMED])
        self._unnamed = max(0, len(dataset.known_bad) - NAMED)
        self._known_bad = len(self.bad) + self._unnamed
        if self._unnamed:
            log.warning("%s data: skipped %d more (see `ovi-data inspect`)", name, self._unnamed)
        self._refuse_too_many(self._known_bad, len(dataset) + self._known_bad)

    def __iter__(self) -> Iterator[Sample]:  # type: ignore[override]
        # A generator: loaded state takes effect at the first batch, even where the iterator was made before.
        order = self.order
        start = Place(0, 0) if order is None else order.place
        waited_before, given_out = self.waited_s, 0
        with Prefetcher(super().__iter__(), self.prefetch, self.device) as batches:
            for batch in batches:
                self.waited_s = waited_before + batches.waited_s
                if ERROR in batch:
                    raise UserError(batch[ERROR])
                self._note(batch.pop(SKIPPED))
                self._met += len(batch["id"])
                found = len(self.bad) + self._unnamed - self._known_bad
                self._refuse_too_many(found, self._met + found)
                self._state_rates(batch.pop(RATES))
                if self.clips.require == "any":
                    batch[KIND] = _kind(batch)
                    batch[ABSENT] = [m for m in self.clips.modalities if m not in batch]
                # Batches read ahead do not count: the state is that of the batches given out.
                given_out += 1
                if order is not None:
                    order.place = order.after(start, given_out)
                    if given_out % order.group == 0:
                        self._resumable = order.place
                elif given_out > self._own:
                    batch[REPEATED] = True
                yield batch
        self.summarise()

    def state_dict(self) -> dict[str, int]:
        """The epoch of the clips, and how many of its batches went into whole groups (see `EpochSampler.together`)."""
        return {"epoch": self._resumable.epoch, "position": self._resumable.batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Resume where `state_dict` was taken: the next iteration starts there."""
        if self.order is not None:
            place = Place(int(state["epoch"]), int(state["position"]))
            self.order.place = self._resumable = self.order.after(place, 0)

    def summarise(self) -> None:
        """One line on the bad samples met so far, where there are any."""
        if self.bad:
            names = ", ".join(key for _, key in list(self.bad)[:5]) + (", …" if len(self.bad) > 5 else "")
            total = len(self.clips) + len(self.clips.known_bad)
            bad = len(self.bad) + self._unnamed
            log.warning("%s data: %d bad of %d clips skipped: %s", self.name, bad, total, names)

    def _state_rates(self, rates: set[tuple[int, int]]) -> None:
        for pair in sorted(rates - self._stated):
            self._stated.add(pair)
            if pair[0] != pair[1]:
                log.warning(
                    "%s data: sound at %d Hz is resampled to %d Hz (data.on_resample=raise refuses it)",
                    self.name,
                    *pair,
                )

    def _note(self, bad: Sequence[BadSample]) -> None:
        for one in bad:
            if (one.shard, one.key) not in self.bad:
                self.bad[one.shard, one.key] = one
                log.warning("%s data: skipped %s", self.name, one)

    def _refuse_too_many(self, bad: int, met: int) -> None:
        if bad < BAD_BEFORE_STOPPING or bad <= self.max_bad_share * met:
            return
        reasons = list(dict.fromkeys(one.reason for one in self.bad.values()))
        raise UserError(
            f"{self.name} data: {bad} of {met} clips met so far are bad, more than the share of "
            f"{self.max_bad_share:g} that data.max_bad_share allows ({'; '.join(reasons[:3])}; the first is "
            f"{next(iter(self.bad.values())).key}): see `ovi-data inspect`"
        )


def _kind(batch: Mapping[str, Any]) -> str:
    """What the clips of a batch are; all are the same, as kinds share no bucket."""
    if "video" not in batch:
        return "sound"
    if "audio" in batch:
        return "both"
    return "still" if batch["video"][0].shape[1] == 1 else "silent_video"


def _in_turn(batches: list[Any], limit: float, rank: int, world_size: int) -> tuple[list[Any], int]:
    """This rank's batches of the first `limit` (a number or a share), as many as any rank has; how many are its own."""
    count = limit if isinstance(limit, int) else max(1, int(limit * len(batches)))
    limited = batches[:count]
    own = limited[rank::world_size]
    filled = limited[:1] * (-(-len(limited) // world_size) - len(own))
    return own + filled, len(own)


class _Guarded(Dataset[Sample]):
    """Returns a user's error as a value: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int | Pick) -> Sample:
        try:
            return self.clips[index]
        except UserError as error:
            return {ERROR: str(error)}


def collate(samples: Sequence[Sample]) -> Sample:
    """A batch of samples: tensors stacked where they have one shape, lists of them where not; texts are a list."""
    for sample in samples:
        if ERROR in sample:
            return {ERROR: sample[ERROR]}
    parts = {part: [sample[part] for sample in samples] for part in LATENT_PARTS if part in samples[0]}
    return {
        "id": [sample["id"] for sample in samples],
        "caption": [sample["caption"] for sample in samples],
        **{part: tensors if part == "text" else _stack(tensors) for part, tensors in parts.items()},
        "meta": [sample["meta"] for sample in samples],
        SKIPPED: [bad for sample in samples for bad in sample.get(SKIPPED, ())],
        RATES: {sample[RATES] for sample in samples if RATES in sample},
    }


def _stack(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    return torch.stack(tensors) if len({t.shape for t in tensors}) == 1 else tensors
