"""One loader for latents and media: any shards, a seeded order, resumed in no time, bad samples skipped by
rule.

The order is a function of (seed, epoch, position) and of the number of ranks, never of the number of workers;
so the loader's state is two numbers, and a run resumed in the middle of an epoch, with other workers if need
be, sees the batches it would have seen. (torchdata's StatefulDataLoader ties its state to the number of
workers.)

Shape suffixes: B clips, C channels, F h w latent frames, rows, columns, L tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ovi_eval.media import resample
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.samples import (
    MediaClip,
    MediaFormat,
    OnResample,
    kind_of,
    read_latents,
    read_media,
    refuse_other_rate,
)
from ovi_lab.data.shards import (
    BadSample,
    BadSampleError,
    Entry,
    ShardReader,
    expand_shards,
    read_index,
)
from ovi_lab.errors import UserError
from ovi_lab.seeding import generator_for

log = logging.getLogger("ovi_lab.data")

OnError = Literal["skip", "raise"]
Sample = dict[str, Any]
_NO_CODEC = (
    "{} holds media, and no codec was given to encode them: name one, or fit one with `ovi-data fit-codec`"
)
SKIPPED, RATES = "_skipped", "_rates"
ERROR = "_error"


class ClipDataset(Dataset[Sample]):
    """The samples of some shards by number, each {"id", "caption", "video" [C,F,h,w], "audio" [L,C], "meta"}.

    Args:
        shards: a pattern (`train-{000..003}.tar`) or several.
        codec: encodes media to latents; not needed where the shards hold latents.
        wanted: what media are brought to before they are encoded; as stored where None.
        on_error: "skip" puts the next good sample in a bad one's place; "raise" stops at the first bad one.
        on_resample: whether sound of another rate is resampled or refused.

    Raises:
        UserError: a shard does not exist or is no tar, or nothing usable is in them; with on_error="raise"
            also the first bad sample.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        codec: LatentCodec | None = None,
        wanted: MediaFormat | None = None,
        on_error: OnError = "skip",
        on_resample: OnResample = "resample",
    ) -> None:
        self.paths = expand_shards(shards)
        self.codec, self.wanted = codec, wanted
        self.on_error, self.on_resample = on_error, on_resample
        self.entries: list[Entry] = []
        self.known_bad: list[BadSample] = []
        kinds = set()
        for path in self.paths:
            index = read_index(path)
            self.known_bad += index.bad
            for entry in index.entries:
                try:
                    kinds.add(kind_of(entry.members))
                    self.entries.append(entry)
                except BadSampleError as error:
                    self.known_bad.append(BadSample(path.name, entry.key, str(error)))
        if self.known_bad and on_error == "raise":
            raise UserError(f"{self.known_bad[0]} (data.on_error=raise)")
        if not self.entries:
            reason = f"; {self.known_bad[0]}" if self.known_bad else ""
            raise UserError(
                f"no usable clip in {len(self.paths)} shard(s), the first {self.paths[0]}{reason}"
            )
        self.kinds = kinds
        self._reader = ShardReader()
        self._found_bad: dict[int, BadSample] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """The sample of that number, or, where it is bad, the next good one; the bad ones met are under
        "_skipped".
        """
        skipped: list[BadSample] = []
        for step in range(len(self.entries)):
            number = (index + step) % len(self.entries)
            try:
                if number not in self._found_bad:
                    return {**self.read(number), **({SKIPPED: skipped} if skipped else {})}
            except BadSampleError as error:
                entry = self.entries[number]
                self._found_bad[number] = BadSample(entry.shard.name, entry.key, str(error))
            bad = self._found_bad[number]
            if self.on_error == "raise":
                raise UserError(f"{bad} (data.on_error=raise)")
            skipped.append(bad)
        raise UserError(f"none of {len(self.entries)} clips can be used; {skipped[0]}")

    def read(self, number: int) -> Sample:
        """The sample of that number itself. Raises BadSampleError where it is bad."""
        entry = self.entries[number]
        members = self._reader.read(entry)
        if kind_of(members) == "latents":
            return {"id": entry.key, **read_latents(members)}
        clip = self._media(members)
        if self.codec is None:
            raise UserError(_NO_CODEC.format(entry.shard))
        try:
            video, audio = self.codec.encode(clip.frames_THWC[None], clip.wave_S[None])
        except UserError as error:
            raise BadSampleError(str(error)) from error
        if not bool(torch.isfinite(video).all() and torch.isfinite(audio).all()):
            raise BadSampleError("its latents hold NaN or infinity")
        return {
            "id": entry.key,
            "caption": clip.caption,
            "video": video[0],
            "audio": audio[0],
            "meta": clip.meta,
            RATES: (clip.source_rate, clip.sample_rate),
        }

    def media(self, number: int) -> MediaClip:
        """The decoded clip of that number. Raises BadSampleError where it is bad or holds latents alone."""
        members = self._reader.read(self.entries[number])
        if kind_of(members) != "media":
            raise BadSampleError("it holds latents, no media")
        return self._media(members)

    def _media(self, members: Mapping[str, bytes]) -> MediaClip:
        """The clip in the wanted format, its sound at the codec's rate."""
        clip = read_media(members, self.wanted, self.on_resample)
        if self.codec is None:
            return clip
        if abs(clip.fps - self.codec.fps) > 1e-3 * self.codec.fps:
            raise UserError(
                f"clips have {clip.fps:g} frames/s, this codec was fitted at {self.codec.fps:g}; "
                "set data.fps (with num_frames, height, width and sample_rate), or fit a codec on these clips"
            )
        rate = self.codec.sample_rate
        if clip.sample_rate != rate:
            refuse_other_rate(clip.sample_rate, rate, self.on_resample)
            clip.wave_S = resample(clip.wave_S, clip.sample_rate, rate)
            clip.sample_rate = rate
        return clip


class EpochSampler(DistributedSampler[int]):
    """One rank's numbers of an epoch: a seeded shuffle, dealt out in whole batches, the same number to every
    rank.

    Batch s of rank r is the r-th part of the s-th run of (batch size x ranks) numbers of the shuffle. What is
    left over at the end is dropped; another epoch drops others. A DistributedSampler by type, so that
    Lightning sets the epoch and puts no other in its place.
    """

    def __init__(self, size: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.num_replicas = rank, world_size
        self.epoch, self.first_batch = 0, 0
        self.num_batches = size // (batch_size * world_size)
        if not self.num_batches:
            ranks = "" if world_size == 1 else f" on each of {world_size} ranks"
            raise UserError(f"a batch of {batch_size}{ranks} needs more than the {size} clips there are")

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Another epoch starts at its beginning; the same one keeps the place that was loaded."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __iter__(self) -> Iterator[int]:
        generator = generator_for("order", self.seed, self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        first, self.first_batch = self.first_batch, 0
        for batch in range(first, self.num_batches):
            start = (batch * self.num_replicas + self.rank) * self.batch_size
            yield from order[start : start + self.batch_size]


class ClipLoader(DataLoader[Sample]):
    """Batches {"id", "caption", "video" [B,C,F,h,w], "audio" [B,L,C], "meta"}; lists where the shapes differ.

    Bad samples are counted and named: each warned of once, all in one line at the end of an epoch.

    Args:
        dataset: the clips.
        batch_size: clips a batch on this rank.
        shuffle: in a seeded order without the remainder (training); else in order and all of them.
        seed, rank, world_size: of the order.
        name: what messages call it.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        name: str = "train",
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        if "media" in dataset.kinds and dataset.codec is None:
            raise UserError(_NO_CODEC.format(dataset.paths[0]))
        self.clips, self.name = dataset, name
        self.order = EpochSampler(len(dataset), batch_size, seed, rank, world_size) if shuffle else None
        self.bad: dict[tuple[str, str], BadSample] = {}
        self._stated: set[tuple[int, int]] = set()
        self._position = 0
        super().__init__(
            _Guarded(dataset),
            batch_size=batch_size,
            sampler=self.order,
            num_workers=num_workers,
            collate_fn=collate,
            drop_last=shuffle,
            # The loader draws from its generator at every epoch; the global one stays as training left it.
            generator=torch.Generator(),
        )
        self._note(dataset.known_bad)

    def __iter__(self) -> Iterator[Sample]:  # type: ignore[override]
        # A generator: what was loaded takes effect at the first batch, whoever asked for an iterator before.
        self._position = self.order.first_batch if self.order else 0
        for batch in super().__iter__():
            if ERROR in batch:
                raise UserError(batch[ERROR])
            self._note(batch.pop(SKIPPED))
            self._state_rates(batch.pop(RATES))
            self._position += 1
            yield batch
        self._position = 0
        if self.order is not None:
            self.order.set_epoch(self.order.epoch + 1)
        self.summarise()

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches have been handed out."""
        epoch = self.order.epoch if self.order else 0
        if self._position == len(self):
            return {"epoch": epoch + 1, "position": 0}
        return {"epoch": epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was taken: the next iteration starts there."""
        if self.order is not None:
            self.order.set_epoch(int(state["epoch"]))
            self.order.first_batch = self._position = int(state["position"])

    def summarise(self) -> None:
        """One line on the bad samples met so far, where there are any."""
        if self.bad:
            names = ", ".join(key for _, key in list(self.bad)[:5]) + (", …" if len(self.bad) > 5 else "")
            total = len(self.clips) + len(self.clips.known_bad)
            log.warning("%s data: %d bad of %d clips skipped: %s", self.name, len(self.bad), total, names)

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


class _Guarded(Dataset[Sample]):
    """Hands a user's error on as a value: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        try:
            return self.clips[index]
        except UserError as error:
            return {ERROR: str(error)}


def collate(samples: Sequence[Sample]) -> Sample:
    """A batch of samples: tensors stacked where they have one shape, lists of them where not."""
    for sample in samples:
        if ERROR in sample:
            return {ERROR: sample[ERROR]}
    return {
        "id": [sample["id"] for sample in samples],
        "caption": [sample["caption"] for sample in samples],
        "video": _stack([sample["video"] for sample in samples]),
        "audio": _stack([sample["audio"] for sample in samples]),
        "meta": [sample["meta"] for sample in samples],
        SKIPPED: [bad for sample in samples for bad in sample.get(SKIPPED, ())],
        RATES: {sample[RATES] for sample in samples if RATES in sample},
    }


def _stack(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    return torch.stack(tensors) if len({t.shape for t in tensors}) == 1 else tensors


def media_runs(
    dataset: ClipDataset, size: int, limit: int | None = None
) -> Iterator[list[tuple[int, MediaClip]]]:
    """The first `limit` good clips in order, in runs of at most `size` of one shape, each with its number.

    Bad ones are left out and warned of, or raised as a UserError, as the data set was told.
    """
    run: list[tuple[int, MediaClip]] = []
    taken = 0
    for number, entry in enumerate(dataset.entries):
        if taken == limit:
            break
        try:
            clip = dataset.media(number)
        except BadSampleError as error:
            bad = BadSample(entry.shard.name, entry.key, str(error))
            if dataset.on_error == "raise":
                raise UserError(f"{bad} (data.on_error=raise)") from error
            log.warning("skipped %s", bad)
            continue
        taken += 1
        if run and (len(run) == size or _shape(clip) != _shape(run[0][1])):
            yield run
            run = []
        run.append((number, clip))
    if run:
        yield run


def _shape(clip: MediaClip) -> tuple[torch.Size, torch.Size]:
    return clip.frames_THWC.shape, clip.wave_S.shape
