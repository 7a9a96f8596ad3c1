"""The order of training: which clips make which batch, computed from seed and position without reading samples.

Clips of similar shape share a bucket (the same latent frames, rows and columns; sound of similar length), so that
little is padded; a bucket's batches are as large as a budget of tokens allows. Everything is arithmetic on whole
arrays: starting at batch 1,000,000 costs no more than starting at the first.

Epochs of clips follow each other without a gap: a step of several batches takes the last ones of an epoch and the
first ones of the next.

Shape suffixes: N samples, B buckets, S steps of an epoch (one batch on every rank).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from ovi_lab.common.seeding import generator_for
from ovi_lab.data.buckets import Buckets, picks
from ovi_lab.data.columns import Array, empty
from ovi_lab.data.shapes import chunks
from ovi_lab.data.weighted_draw import WeightedDraw
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")


class _BucketSteps(NamedTuple):
    """The steps of a bucket: those of its own clips, and one of the remainder filled with clips of shorter sound."""

    bucket: int
    steps: int
    rest: int
    borrowed: list[tuple[int, int, int]]  # bucket, and from which to which of its clips


class _EpochSteps(NamedTuple):
    """The order of an epoch: sample numbers, of which step s takes those from start_S[s] on, size_S[s] a rank."""

    numbers: Array
    start_S: Array
    size_S: Array
    cuts: tuple[Array, Array] | None


class Place(NamedTuple):
    """A position in the order: the epoch of clips, and the number of its batches (or steps) that are done."""

    epoch: int
    batch: int


class EpochSampler(Sampler[list[Any]]):
    """One rank's batches, each a list of sample numbers (or `Pick`s where sound is cut).

    A seeded shuffle of all samples fills the buckets; whenever one holds a batch for every rank, that is a step.
    So in a step all ranks have batches of one bucket, and a step of one rank with batches as large as those of all
    together has the same clips. A bucket too small for one step joins the next longer one of its picture; what is left
    in one at the end is filled up with clips of shorter sound. What is left of the shortest is dropped, and another
    epoch drops others.

    Where all samples share one bucket, ranks need not wait for each other's: the batches are those of one rank,
    distributed in turn, so that any number of ranks takes the same steps; only what does not fill one batch is dropped.

    Every epoch has the same number of steps, that of the first: where random cuts would give more, the last are left
    out, and where fewer, the epoch's first come once more.

    The batches of successive epochs are one endless row. An iteration takes `len()` of them from `place` on: about as
    many as an epoch has on this rank, in whole groups, so that no group is cut off at its end.

    Args:
        buckets: which samples go together. Where none fills a batch of its budget of tokens, as with a few clips,
            batches are as large as the clips allow.
        seed, rank, world_size: of this order; ranks that share a batch give the same rank.
        group: batches on each rank that one optimiser step accumulates.
        limit: the number of batches of each epoch that a rank uses, or their share.
        draw: which samples each epoch takes; None: each of them once.

    Raises:
        UserError: no bucket fills one batch on each rank; the message has the number that would.
    """

    def __init__(
        self,
        buckets: Buckets,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        group: int = 1,
        limit: float = 1.0,
        draw: WeightedDraw | None = None,
    ) -> None:
        self.draw, self.size = draw, buckets.size if draw is None else draw.size
        self.buckets, self.seed, self.group = buckets, seed, group
        self.rank, self.world_size = rank, world_size
        self.place = Place(0, 0)
        """Where an iteration begins."""
        self.together = 1 if buckets.one_bucket else world_size
        """Ranks over which an epoch is distributed together; a place counts a batch on each of them as one."""
        count_B, plan = self._first_epoch()
        most = int(count_B.max()) // self.together
        if not plan and buckets.by_tokens and most:
            # any epoch has batches of that size: where the lengths drawn are others, the clips of short buckets join
            log.warning(
                "the %d clips fill no batch of data.tokens_per_batch: %d make a batch", buckets.size, most
            )
            self.buckets = buckets = buckets.at_most(most)
            count_B, plan = self._first_epoch()
        clips = sum((d.steps + bool(d.rest)) * int(buckets.batch_B[d.bucket]) for d in plan)
        self.num_batches = sum(d.steps + bool(d.rest) for d in plan)
        """Number of batches of an epoch, each on `together` ranks."""
        self.clips_per_batch = clips / max(self.num_batches, 1)
        """Mean over the first epoch."""
        self.batch_size = int(buckets.batch_B[count_B.argmax()])  # shown by Lightning as the loader's
        ranks = "" if self.together == 1 else f" on each of {world_size} ranks"
        if not self.num_batches:
            of_one_shape = (
                "" if int((count_B > 0).sum()) == 1 else f", at most {int(count_B.max())} of one shape"
            )
            remedy = f"give data.batch_size={most} or less" if most else "use fewer processes"
            raise UserError(
                f"a batch of {self.batch_size}{ranks} needs more than the {buckets.size} clips there are"
                f"{of_one_shape}: {remedy}, or more clips"
            )
        seen = {d.bucket for d in plan} | {bucket for d in plan for bucket, _, _ in d.borrowed}
        unseen = self.size - int(count_B[sorted(seen)].sum())
        if unseen and buckets.cut is None:
            log.warning(
                "%d of %d clips are never trained on: too few are of their shape to fill a batch%s; "
                "a smaller batch would take them in",
                unseen,
                self.size,
                ranks,
            )
        self._stride = world_size // self.together
        wanted = limit * self._stride if isinstance(limit, int) else int(limit * self.num_batches)
        self.num_batches = max(1, min(self.num_batches, wanted))
        self._length = max(1, round(self.num_batches / (self._stride * group))) * group

    def _first_epoch(self) -> tuple[Array, list[_BucketSteps]]:
        """The clips of each bucket, after small ones have joined others, and its steps."""
        bucket_N, numbers_N = self._drawn(0)
        count_B = self._joined(self._counts(bucket_N, numbers_N))[1]
        return count_B, self._plan(count_B)

    def _drawn(self, epoch: int) -> tuple[Array, Array | None]:
        """The bucket of each sample, and the numbers [N] of those that an epoch takes; None for all of them."""
        return self.buckets.of_epoch(epoch), None if self.draw is None else self.draw.numbers(epoch)

    def __len__(self) -> int:
        return self._length

    def after(self, place: Place, batches: int) -> Place:
        """The place so many batches of each rank further on."""
        epochs, batch = divmod(place.batch + batches * self._stride, self.num_batches)
        return Place(place.epoch + epochs, batch)

    def __iter__(self) -> Iterator[list[Any]]:
        return self._batches(self.place)

    def _batches(self, place: Place) -> Iterator[list[Any]]:
        first, within = divmod(self.rank, self.together)
        at = Place(place.epoch, place.batch + first)
        none = np.zeros(0, np.int64)
        drawn, drawn_epoch = _EpochSteps(none, none, none, None), -1
        for _ in range(len(self)):
            at = self.after(at, 0)
            if at.epoch != drawn_epoch:
                del drawn  # one epoch's order at a time
                drawn, drawn_epoch = self._steps(at.epoch), at.epoch
            step = at.batch % len(drawn.start_S)
            size = int(drawn.size_S[step])
            start = int(drawn.start_S[step]) + within * size
            yield picks(drawn.numbers[start : start + size], drawn.cuts)
            at = Place(at.epoch, at.batch + self._stride)

    def _steps(self, epoch: int) -> _EpochSteps:
        bucket_N, numbers_N = self._drawn(epoch)
        into_B, count_B = self._joined(self._counts(bucket_N, numbers_N))
        plan = self._plan(count_B)
        batch_B, offset_B = self.buckets.batch_B, count_B.cumsum() - count_B
        extra = sum(int(batch_B[step.bucket]) for step in plan if step.rest) * self.together
        order_N = self._shuffled(epoch)
        if numbers_N is not None:
            for part in chunks(self.size):
                order_N[part] = numbers_N[order_N[part]]
            del numbers_N
        # Positions in the shuffle, bucket after bucket, each bucket in the shuffle's order; then the filled-up steps.
        position_N = empty(self.size + extra, order_N.dtype)
        filled_B = offset_B.copy()
        for part in chunks(self.size):
            bucket = into_B[bucket_N[order_N[part]]]
            sorted_N = np.argsort(bucket, kind="stable")
            bucket = bucket[sorted_N]
            here_B = np.bincount(bucket, minlength=len(count_B))
            within_N = np.arange(len(bucket)) - (here_B.cumsum() - here_B)[bucket]
            position_N[filled_B[bucket] + within_N] = part.start + sorted_N
            filled_B += here_B
        del bucket_N
        if not plan:
            raise UserError(f"epoch {epoch} fills no batch: data.tokens_per_batch or the batch is too large")
        end = self.size
        for bucket, whole, rest, borrowed in plan:
            if rest:
                clips, begin = int(batch_B[bucket]) * self.together, int(offset_B[bucket])
                own = position_N[begin + whole * clips :][:rest]
                shorter = [
                    position_N[offset_B[b] + start : offset_B[b] + stop] for b, start, stop in borrowed
                ]
                position_N[end : end + clips] = np.sort(np.concatenate([own, *shorter]))
                end += clips
        size_S, last_S = self._begins(plan, offset_B, order_N.dtype)
        for part in chunks(len(last_S)):
            last_S[part] = position_N[last_S[part] + size_S[part].astype(np.int64) * self.together - 1]
        for part in chunks(len(position_N)):
            position_N[part] = order_N[position_N[part]]
        del order_N
        # A step comes when the shuffle has reached its last sample.
        when_S = np.argsort(last_S)
        del last_S
        size_S, start_S = self._begins(plan, offset_B, position_N.dtype)
        return _EpochSteps(position_N, start_S[when_S], size_S[when_S], self.buckets.cuts(epoch))

    def _begins(self, plan: Sequence[_BucketSteps], offset_B: Array, kind: Any) -> tuple[Array, Array]:
        """The batch of each step, and where it begins among all samples by bucket [S]; filled-up steps follow those."""
        steps = sum(row.steps + bool(row.rest) for row in plan)
        size_S, start_S = (
            empty(steps, np.min_scalar_type(int(self.buckets.batch_B.max()))),
            empty(steps, kind),
        )
        end, at = self.size, 0
        for bucket, whole, rest, _ in plan:
            size, begin = int(self.buckets.batch_B[bucket]), int(offset_B[bucket])
            clips = size * self.together
            size_S[at : at + whole + bool(rest)] = size
            start_S[at : at + whole] = np.arange(begin, begin + clips * whole, clips, kind)
            at += whole
            if rest:
                start_S[at] = end
                end, at = end + clips, at + 1
        return size_S, start_S

    def _shuffled(self, epoch: int) -> Array:
        """The numbers below `size` in the seeded order of an epoch."""
        kind = torch.int32 if self.size < 2**30 else torch.int64  # the same numbers in half of the memory
        generator = generator_for("order", self.seed, epoch)
        return torch.randperm(self.size, generator=generator, dtype=kind).numpy()

    def _counts(self, bucket_N: Array, numbers_N: Array | None) -> Array:
        """Samples of each bucket [B], of those with these numbers where they are given."""
        pieces = (
            bucket_N[part] if numbers_N is None else bucket_N[numbers_N[part]] for part in chunks(self.size)
        )
        return sum(np.bincount(piece, minlength=len(self.buckets.batch_B)) for piece in pieces)  # type: ignore

    def _joined(self, count_B: Array) -> tuple[Array, Array]:
        """The buckets [B] after small ones have joined the next longer of their picture, and their counts [B]."""
        count = count_B.tolist()
        needed, edges = (self.buckets.batch_B * self.together).tolist(), len(self.buckets.edges_E)
        into_B = np.arange(len(count), dtype=np.min_scalar_type(len(count)))
        waiting: list[int] = []
        for bucket, own in enumerate(count):
            if bucket % edges == 0:
                waiting = []  # another picture
            if not own:
                continue
            into_B[waiting] = bucket
            count[bucket] += sum(count[b] for b in waiting)
            waiting = [*waiting, bucket] if count[bucket] < needed[bucket] else []
            for b in waiting[:-1]:
                count[b] = 0
        joined_B = np.zeros_like(count_B)
        np.add.at(joined_B, into_B, count_B)
        return into_B, joined_B

    def _plan(self, count_B: Array) -> list[_BucketSteps]:
        """The steps of each bucket with `count_B` clips; within a picture shape, the longest sound first."""
        left, edges = count_B.tolist(), len(self.buckets.edges_E)
        needed = (self.buckets.batch_B * self.together).tolist()
        plan = []
        for bucket in reversed([b for b, count in enumerate(left) if count]):
            steps, rest = divmod(left[bucket], needed[bucket])
            shorter = [b for b in range(bucket - 1, bucket // edges * edges - 1, -1) if left[b]]
            short, borrowed = needed[bucket] - rest, []
            if rest and sum(left[b] for b in shorter) < short:
                rest = 0
            for b in shorter if rest else ():
                taken = min(short, left[b])
                borrowed.append((b, left[b] - taken, left[b]))
                left[b] -= taken
                short -= taken
                if not short:
                    break
            if steps or rest:
                plan.append(_BucketSteps(bucket, steps, rest, borrowed))
        return plan
