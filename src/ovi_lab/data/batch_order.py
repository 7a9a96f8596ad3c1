"""The order of training: which clips make which batch, computed from the seed and the position without reading
samples.

Clips of similar shape share a bucket (the same latent frames, rows and columns; sound of similar length), so that
little is padded; a bucket's batches are as large as a budget of tokens allows. Everything is arithmetic on whole
arrays: starting at batch 1,000,000 costs no more than starting at the first.

Epochs of clips follow each other without a gap: a step of several batches takes the last ones of an epoch and the
first ones of the next.

Shape suffixes: N samples, B buckets, S steps of an epoch (one batch on every rank).
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ovi_lab.common.seeding import generator_for
from ovi_lab.common.values import check_settings
from ovi_lab.data.index import Shapes
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

Crop = Literal["longer", "random"]
PER_OCTAVE = 8  # default edges of audio lengths: at most 2^(1/8) - 1 = 9 % of a bucket's tokens are padding


class Pick(NamedTuple):
    """A sample by number, and which tokens of its sound are taken; all of them where `length` is 0."""

    number: int
    start: int = 0
    length: int = 0


@dataclass(frozen=True)
class AudioTokens:
    """Limits on the length of stored sound, and how it is cut.

    Args:
        min: shorter clips are left out, and cuts are no shorter.
        max: longer clips are cut to it; beside a picture, which would not be cut, they are left out. None: any length.
        crop: "longer" cuts only what is longer than `max`; "random" cuts every clip to a length drawn between `min`
            and `max` (or its own), which gives data of one length the variable one of pretraining.

    Where a cut begins and how long it is depends on the seed, the epoch and the sample's number alone.
    """

    min: int = 1
    max: int | None = None
    crop: Crop = "longer"

    def __post_init__(self) -> None:
        check_settings("data.audio_tokens", vars(self))
        if self.max is not None and self.max < self.min:
            raise UserError(
                f"data.audio_tokens has min {self.min} and max {self.max}: expected 1 <= min <= max"
            )

    def takes(self, shapes: Shapes, modalities: Sequence[str]) -> bool:
        """Whether a clip with latents of these shapes is used at all."""
        if "audio" not in modalities:
            return True
        length = shapes["audio"][0]
        return length >= self.min and (self.max is None or length <= self.max or "video" not in modalities)

    @property
    def cuts_any(self) -> bool:
        """Whether there is anything to cut."""
        return self.max is not None or self.crop == "random"

    def longest(self, stored_N: Tensor) -> Tensor:
        """The most tokens [N] that clips of so many may have."""
        return stored_N if self.max is None else stored_N.clamp(max=self.max)

    def cuts(self, stored_N: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """First token and length [N] of what is taken of each clip in an epoch."""
        # Row n is drawn as the n-th pair whatever comes after it: a longer list of shards cuts these clips in the same
        # way.
        draws_N2 = torch.rand(
            len(stored_N), 2, generator=generator_for("audio cut", seed, epoch), dtype=torch.float64
        )
        length_N = self.longest(stored_N)
        if self.crop == "random":
            length_N = self.min + (draws_N2[:, 0] * (length_N - self.min + 1)).long()
        return (draws_N2[:, 1] * (stored_N - length_N + 1)).long(), length_N


class Buckets:
    """Samples by shape, and how many of a bucket make a batch.

    Args:
        shapes: the shapes of each sample's latents; a sample whose shapes are not known (None) counts as the commonest
            ones.
        batch_size: clips a batch, where `tokens_per_batch` is None.
        tokens_per_batch: budget of a batch with its padding: as many clips as fit. Tokens are the towers':
            latent positions by `patch_size`, and tokens of sound.
        audio_edges: longest sound of each bucket, in tokens; None: eight an octave.
        patch_size: of the video tower, in latent frames, rows and columns.
        audio_tokens: cuts sound.
        seed: seed of the cuts.
    """

    def __init__(
        self,
        shapes: Sequence[Shapes | None],
        batch_size: int = 16,
        tokens_per_batch: int | None = None,
        audio_edges: Sequence[int] | None = None,
        patch_size: Sequence[int] = (1, 1, 1),
        audio_tokens: AudioTokens | None = None,
        seed: int = 0,
    ) -> None:
        check_settings("data", {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch})
        self.size, self.cut, self.seed = len(shapes), audio_tokens, seed
        pictures, self.picture_N, self.stored_N = _shapes_by_number(shapes)
        if tokens_per_batch is not None and not pictures and not int(self.stored_N.max()):
            raise UserError(
                "data.tokens_per_batch counts tokens of stored latents, and these shards hold media: "
                "encode them with `ovi-data latents`, or set data.batch_size"
            )
        longest_N = self.stored_N if self.cut is None else self.cut.longest(self.stored_N)
        self.edges_E = _edges(audio_edges, int(longest_N.max()))
        count = len(self.edges_E)
        picture_tokens = torch.tensor([_picture_tokens(shape, patch_size) for shape in pictures] or [0])
        video_B = picture_tokens.repeat_interleave(count)
        if self.cut is not None and self.cut.crop == "random":
            audio_B = self.edges_E.clamp(max=int(longest_N.max())).repeat(len(picture_tokens))
        else:  # the lengths stay, and so does the longest of each bucket
            audio_B = torch.zeros(len(video_B), dtype=torch.long)
            audio_B.scatter_reduce_(0, self._bucket(longest_N), longest_N, "amax")
        self.tokens_B = video_B + audio_B
        if tokens_per_batch is None:
            self.batch_B = torch.full_like(self.tokens_B, batch_size)
        else:
            largest = int(self.tokens_B[self._bucket(longest_N).unique()].max())
            if largest > tokens_per_batch:
                raise UserError(
                    f"data.tokens_per_batch is {tokens_per_batch}, less than the {largest} tokens of one clip: "
                    "raise it, or cut clips with data.audio_tokens.max"
                )
            self.batch_B = (tokens_per_batch // self.tokens_B.clamp(min=1)).clamp(min=1)

    def _bucket(self, length_N: Tensor) -> Tensor:
        return self.picture_N * len(self.edges_E) + torch.searchsorted(self.edges_E, length_N)

    @property
    def one_bucket(self) -> bool:
        """Whether all samples share one bucket, in every epoch."""
        drawn = self.cut is not None and self.cut.crop == "random"
        return not drawn and len(self._bucket(self.stored_N).unique()) == 1

    def of_epoch(self, epoch: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The bucket of each sample [N], and the cuts of their sound (first token and length, [N] each)."""
        if self.cut is None:
            return self._bucket(self.stored_N), None
        cuts = self.cut.cuts(self.stored_N, self.seed, epoch)
        return self._bucket(cuts[1]), cuts

    def in_order(self) -> list[list[Any]]:
        """Batches of all samples by number, as for validation: small enough for the largest bucket, and cut as in
        the first epoch.
        """
        bucket_N, cuts = self.of_epoch(0)
        size = int(self.batch_B[bucket_N.unique()].min())
        picks = _picks(torch.arange(self.size), cuts)
        return [picks[start : start + size] for start in range(0, self.size, size)]


class _BucketSteps(NamedTuple):
    """The steps of a bucket: those of its own clips, and one of the remainder filled with clips of shorter sound."""

    bucket: int
    steps: int
    rest: int
    borrowed: list[tuple[int, int, int]]  # bucket, and from which to which of its clips


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
        buckets: which samples go together.
        seed, rank, world_size: of this order; ranks that share a batch give the same rank.
        group: batches on each rank that one optimiser step accumulates.
        limit: the number of batches of each epoch that a rank uses, or their share.

    Raises:
        UserError: no bucket fills one batch on each rank.
    """

    def __init__(
        self,
        buckets: Buckets,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        group: int = 1,
        limit: float = 1.0,
    ) -> None:
        self.buckets, self.seed, self.group = buckets, seed, group
        self.rank, self.world_size = rank, world_size
        self.place = Place(0, 0)
        """Where an iteration begins."""
        self.together = 1 if buckets.one_bucket else world_size
        """Ranks over which an epoch is distributed together; a place counts a batch on each of them as one."""
        count_B = self._joined(buckets.of_epoch(0)[0]).bincount(minlength=len(buckets.batch_B))
        plan = self._plan(count_B)
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
            raise UserError(
                f"a batch of {self.batch_size}{ranks} needs more than the {buckets.size} clips there are{of_one_shape}"
            )
        seen = {d.bucket for d in plan} | {bucket for d in plan for bucket, _, _ in d.borrowed}
        unseen = buckets.size - int(count_B[sorted(seen)].sum())
        if unseen and buckets.cut is None:
            log.warning(
                "%d of %d clips are never trained on: too few are of their shape to fill a batch%s; "
                "a smaller batch would take them in",
                unseen,
                buckets.size,
                ranks,
            )
        self._stride = world_size // self.together
        wanted = limit * self._stride if isinstance(limit, int) else int(limit * self.num_batches)
        self.num_batches = max(1, min(self.num_batches, wanted))
        self._length = max(1, round(self.num_batches / (self._stride * group))) * group

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Start at the beginning of an epoch of clips."""
        self.place = Place(epoch, 0)

    def after(self, place: Place, batches: int) -> Place:
        """The place so many batches of each rank further on."""
        epochs, batch = divmod(place.batch + batches * self._stride, self.num_batches)
        return Place(place.epoch + epochs, batch)

    def __iter__(self) -> Iterator[list[Any]]:
        return self._batches(self.place)

    def _batches(self, place: Place) -> Iterator[list[Any]]:
        first, within = divmod(self.rank, self.together)
        at, drawn_epoch = Place(place.epoch, place.batch + first), -1
        for _ in range(len(self)):
            at = self.after(at, 0)
            if at.epoch != drawn_epoch:
                (numbers_N, start_S, size_S, cuts), drawn_epoch = self._steps(at.epoch), at.epoch
            step = at.batch % len(start_S)
            size = int(size_S[step])
            start = int(start_S[step]) + within * size
            yield _picks(numbers_N[start : start + size], cuts)
            at = Place(at.epoch, at.batch + self._stride)

    def _steps(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Sample numbers, step after step; where in them each step begins and how many a rank has [S]; the cuts."""
        bucket_N, cuts = self.buckets.of_epoch(epoch)
        bucket_N = self._joined(bucket_N)
        order_N = torch.randperm(self.buckets.size, generator=generator_for("order", self.seed, epoch))
        # Positions in the shuffle, bucket after bucket, each bucket in the shuffle's order.
        position_N = torch.argsort(bucket_N[order_N], stable=True)
        count_B = torch.bincount(bucket_N, minlength=len(self.buckets.batch_B))
        offset_B = (count_B.cumsum(0) - count_B).tolist()
        parts, lasts, sizes = [], [], []
        for bucket, steps, rest, borrowed in self._plan(count_B):
            size = int(self.buckets.batch_B[bucket])
            own_count = steps * size * self.together
            own = position_N[offset_B[bucket] : offset_B[bucket] + own_count + rest]
            groups = [own[:own_count].view(steps, -1)] if steps else []
            if rest:
                shorter = [position_N[offset_B[b] + start : offset_B[b] + end] for b, start, end in borrowed]
                groups.append(torch.cat([own[own_count:], *shorter]).sort().values[None])
            for group in groups:
                parts.append(group.flatten())
                lasts.append(group[:, -1])
                sizes.append(torch.full((len(group),), size))
        if not parts:
            raise UserError(f"epoch {epoch} fills no batch: data.tokens_per_batch or the batch is too large")
        size_S = torch.cat(sizes)
        start_S = (size_S.cumsum(0) - size_S) * self.together
        # A step comes when the shuffle has reached its last sample.
        when_S = torch.argsort(torch.cat(lasts))
        return order_N[torch.cat(parts)], start_S[when_S], size_S[when_S], cuts

    def _joined(self, bucket_N: Tensor) -> Tensor:
        """The buckets after small ones have joined the next longer of their picture."""
        count = bucket_N.bincount(minlength=len(self.buckets.batch_B)).tolist()
        needed, edges = (self.buckets.batch_B * self.together).tolist(), len(self.buckets.edges_E)
        into_B = torch.arange(len(count))
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
        return into_B[bucket_N]

    def _plan(self, count_B: Tensor) -> list[_BucketSteps]:
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


def _picks(numbers: Tensor, cuts: tuple[Tensor, Tensor] | None) -> list[Any]:
    if cuts is None:
        return numbers.tolist()
    starts, lengths = cuts[0][numbers].tolist(), cuts[1][numbers].tolist()
    return [Pick(*pick) for pick in zip(numbers.tolist(), starts, lengths, strict=True)]


def _shapes_by_number(
    shapes: Sequence[Shapes | None],
) -> tuple[list[tuple[int, ...]], Tensor, Tensor]:
    """The different pictures' shapes, each sample's among them [N], and its tokens of sound [N] (0: none)."""
    if not shapes:
        return [], torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    number: dict[tuple[int, ...], int] = {}
    known = [(s.get("video", ()), s.get("audio", (0,))[0]) for s in shapes if s is not None]
    common = Counter(known).most_common(1)[0][0] if len(known) < len(shapes) and known else ((), 0)
    picture_N, stored_N = [], []
    for shape in shapes:
        video, audio = common if shape is None else (shape.get("video", ()), shape.get("audio", (0,))[0])
        picture_N.append(number.setdefault(video, len(number)))
        stored_N.append(audio)
    pictures = [] if set(number) == {()} else list(number)
    return pictures, torch.tensor(picture_N), torch.tensor(stored_N)


def _picture_tokens(shape_CFhw: tuple[int, ...], patch_size: Sequence[int]) -> int:
    if len(shape_CFhw) != 4:
        return 0
    return math.prod(math.ceil(size / patch) for size, patch in zip(shape_CFhw[1:], patch_size, strict=True))


def _edges(given: Sequence[int] | None, longest: int) -> Tensor:
    """Ascending edges [E] of audio lengths, the last of which no clip passes."""
    if given is not None:
        if not given or any(b <= a for a, b in zip([0, *given], given, strict=False)):
            raise UserError(
                f"data.audio_edges is {list(given)}; expected ascending numbers of tokens above 0"
            )
        edges = list(given)
    else:
        steps = math.ceil(PER_OCTAVE * math.log2(max(longest, 1)))
        edges = sorted({round(2 ** (step / PER_OCTAVE)) for step in range(steps + 1)})
    if edges[-1] < longest:
        edges.append(longest)
    return torch.tensor(edges)
