"""Buckets of clips of similar shape: the same latent frames, rows and columns, and sound of similar length.

Little is padded within a bucket, and its batches are as large as a budget of tokens allows. Shapes come from the
shards' indexes; no sample is read.

Shape suffixes: N samples, E edges of audio lengths.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

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
        self.by_tokens = tokens_per_batch is not None
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

    def at_most(self, clips: int) -> Buckets:
        """These with batches of so many clips at most."""
        fewer = copy.copy(self)
        fewer.batch_B = self.batch_B.clamp(max=clips)
        return fewer

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
        everything = picks(torch.arange(self.size), cuts)
        return [everything[start : start + size] for start in range(0, self.size, size)]


def picks(numbers: Tensor, cuts: tuple[Tensor, Tensor] | None) -> list[Any]:
    """Sample numbers [N] as the data set takes them: a `Pick` each where its sound is cut, else the number."""
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
