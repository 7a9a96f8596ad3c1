"""Buckets of clips of similar shape: the same latent frames, rows and columns, and sound of similar length.

Little is padded within a bucket, and its batches are as large as a budget of tokens allows. Shapes come from the
shards' indexes; no sample is read. What is kept of each sample is of the smallest type that holds it, and what is
computed of all is computed in pieces: there may be ten million.

Shape suffixes: N samples, E edges of audio lengths, B buckets.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ovi_lab.common.seeding import generator_for
from ovi_lab.common.values import check_settings
from ovi_lab.data.columns import Array, empty
from ovi_lab.data.index import Shapes
from ovi_lab.data.kinds import BOTH
from ovi_lab.data.shapes import ClipShapes, chunks
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
        max: longer clips are cut to it; those with a picture, which would not be cut, are left out. None: any length.
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
        if "audio" not in modalities or "audio" not in shapes:
            return True
        length, seen = shapes["audio"][0], "video" in modalities and "video" in shapes
        return length >= self.min and (self.max is None or length <= self.max or not seen)

    @property
    def cuts_any(self) -> bool:
        """Whether there is anything to cut."""
        return self.max is not None or self.crop == "random"

    def longest(self, stored_N: Array) -> Array:
        """The most tokens [N] that clips of so many may have."""
        return stored_N if self.max is None else np.minimum(stored_N, self.max)

    def cutter(self, seed: int, epoch: int) -> Callable[[Array], tuple[Array, Array]]:
        """Gives for the stored lengths of the next clips, in the order of their numbers, the first token and the
        length of what is taken of each in an epoch.
        """
        # Row n is drawn as the n-th pair whatever comes after it: a longer list of shards cuts these clips in the same
        # way.
        generator = generator_for("audio cut", seed, epoch)

        def cut(stored_N: Array) -> tuple[Array, Array]:
            draws_N2 = torch.rand(len(stored_N), 2, generator=generator, dtype=torch.float64).numpy()
            length_N = self.longest(stored_N)
            if self.crop == "random":
                length_N = self.min + (draws_N2[:, 0] * (length_N - self.min + 1)).astype(np.int64)
            return (draws_N2[:, 1] * (stored_N - length_N + 1)).astype(np.int64), length_N

        return cut


def cuts_of(given: Mapping[str, Any] | None, modalities: Sequence[str]) -> AudioTokens | None:
    """The cuts that `data.audio_tokens` describes, None for sound as it is. Raises UserError for what cannot be."""
    if given is None:
        return None
    unknown = set(given) - {"min", "max", "crop"}
    if unknown:
        raise UserError(f"data.audio_tokens has {', '.join(sorted(unknown))}; it takes min, max and crop")
    tokens = AudioTokens(**given)
    if tokens.crop == "random" and "video" in modalities:
        raise UserError(
            "data.audio_tokens.crop=random cuts sound and would part it from its picture: "
            "set data.modalities=[audio], or crop=longer"
        )
    return tokens if tokens.cuts_any or tokens.min > 1 else None


class Buckets:
    """Samples by shape, and how many of a bucket make a batch.

    Args:
        shapes: the shapes of each sample's latents; samples whose shapes are not known (None) count as the commonest
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
        shapes: ClipShapes | Sequence[Shapes | None],
        batch_size: int = 16,
        tokens_per_batch: int | None = None,
        audio_edges: Sequence[int] | None = None,
        patch_size: Sequence[int] = (1, 1, 1),
        audio_tokens: AudioTokens | None = None,
        seed: int = 0,
    ) -> None:
        check_settings("data", {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch})
        self.shapes = shapes if isinstance(shapes, ClipShapes) else ClipShapes.of(shapes)
        self.size, self.cut, self.seed = len(shapes), audio_tokens, seed
        self.by_tokens = tokens_per_batch is not None
        pictures, self._picture_F, self._unknown_length = self.shapes.pictures()
        self._unknown_F = np.array([form is None for form in self.shapes.forms] or [True], bool)
        most = max((int(self._stored(part).max()) for part in chunks(self.size)), default=0)
        picture_tokens = np.array([_picture_tokens(shape, patch_size) for shape in pictures] or [0])
        if tokens_per_batch is not None and not picture_tokens.any() and not most:
            raise UserError(
                "data.tokens_per_batch counts tokens of stored latents, and these shards hold media: "
                "encode them with `ovi-data latents`, or set data.batch_size"
            )
        longest = most if self.cut is None else int(self.cut.longest(np.array(most)))
        self._most = most
        self.edges_E = _edges(audio_edges, longest)
        count = len(self.edges_E)
        self._count = len(picture_tokens) * count
        stored_B, taken_B, audio_B = (np.zeros(self._count + 1, np.int64) for _ in range(3))
        for part in chunks(self.size):
            stored_N = self._stored(part)
            stored_B += np.bincount(self._bucket(part, stored_N), minlength=self._count + 1)
            longest_N = stored_N if self.cut is None else self.cut.longest(stored_N)
            bucket_N = self._bucket(part, longest_N)
            taken_B += np.bincount(bucket_N, minlength=self._count + 1)
            np.maximum.at(audio_B, bucket_N, longest_N)
        drawn = self.cut is not None and self.cut.crop == "random"
        self.one_bucket = not drawn and int((stored_B > 0).sum()) == 1
        """Whether all samples share one bucket, in every epoch."""
        # Where the lengths stay, so does the longest of each bucket.
        most_B = np.minimum(self.edges_E, longest) if drawn else audio_B[: self._count]
        self.tokens_B = picture_tokens.repeat(count) + (
            np.tile(most_B, len(picture_tokens)) if drawn else most_B
        )
        if tokens_per_batch is None:
            self.batch_B = np.full_like(self.tokens_B, batch_size)
        else:
            largest = int(self.tokens_B[taken_B[: self._count] > 0].max())
            if largest > tokens_per_batch:
                raise UserError(
                    f"data.tokens_per_batch is {tokens_per_batch}, less than the {largest} tokens of one clip: "
                    "raise it, or cut clips with data.audio_tokens.max"
                )
            self.batch_B = np.maximum(tokens_per_batch // np.maximum(self.tokens_B, 1), 1)

    def at_most(self, clips: int) -> Buckets:
        """These with batches of so many clips at most."""
        fewer = copy.copy(self)
        fewer.batch_B = np.minimum(self.batch_B, clips)
        return fewer

    def _stored(self, part: slice) -> Array:
        """Tokens of sound [N] of samples, as they are stored."""
        stored_N = self.shapes.length_N[part].astype(np.int64)
        stored_N[self._unknown_F[self.shapes.form_N[part]]] = self._unknown_length
        return stored_N

    def _bucket(self, part: slice, length_N: Array) -> Array:
        picture_N = self._picture_F[self.shapes.form_N[part]]
        return picture_N * len(self.edges_E) + np.searchsorted(self.edges_E, length_N)

    def _taken(self, epoch: int) -> Iterator[tuple[slice, Array, Array]]:
        """Numbers of samples, with the first token and the length of what is taken of each in an epoch."""
        cut = None if self.cut is None else self.cut.cutter(self.seed, epoch)
        for part in chunks(self.size):
            stored_N = self._stored(part)
            yield (part, *((np.zeros_like(stored_N), stored_N) if cut is None else cut(stored_N)))

    def of_epoch(self, epoch: int) -> Array:
        """The bucket of each sample [N]."""
        bucket_N = empty(self.size, np.min_scalar_type(self._count))
        for part, _, length_N in self._taken(epoch):
            bucket_N[part] = self._bucket(part, length_N)
        return bucket_N

    def cuts(self, epoch: int) -> tuple[Array, Array] | None:
        """First token and length [N] of what is taken of each sample's sound; None where all of it is."""
        if self.cut is None:
            return None
        kind = np.min_scalar_type(self._most)
        start_N, length_N = empty(self.size, kind), empty(self.size, kind)
        for part, start, length in self._taken(epoch):
            start_N[part], length_N[part] = start, length
        return start_N, length_N

    def in_order(self) -> list[list[Any]]:
        """Batches of all samples by number, as for validation: small enough for the largest bucket, and cut as in
        the first epoch; samples with the same modalities together.
        """
        size = int(self.batch_B[np.unique(self.of_epoch(0))].min())
        cuts = self.cuts(0)
        lacks_N = sum(2**i * self.shapes.lacking(m)[self.shapes.form_N] for i, m in enumerate(BOTH))
        batches = []
        for lacking in np.unique(lacks_N):
            alike = picks(np.flatnonzero(lacks_N == lacking), cuts)
            batches += [alike[start : start + size] for start in range(0, len(alike), size)]
        return batches


def picks(numbers: Array, cuts: tuple[Array, Array] | None) -> list[Any]:
    """Sample numbers [N] as the data set takes them: a `Pick` each where its sound is cut, else the number."""
    if cuts is None:
        return numbers.tolist()
    starts, lengths = cuts[0][numbers].tolist(), cuts[1][numbers].tolist()
    return [Pick(*pick) for pick in zip(numbers.tolist(), starts, lengths, strict=True)]


def _picture_tokens(shape_CFhw: tuple[int, ...], patch_size: Sequence[int]) -> int:
    if len(shape_CFhw) != 4:
        return 0
    return math.prod(math.ceil(size / patch) for size, patch in zip(shape_CFhw[1:], patch_size, strict=True))


def _edges(given: Sequence[int] | None, longest: int) -> Array:
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
    return np.array(edges)
