"""The data set of latents over shards: media encoded as they are read, or stored latents.

Shape suffixes: C channels, F h w latent frames, rows, columns, L tokens, n words, E text channels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import Dataset

from ovi_eval.clips.writing import resample
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.buckets import AudioTokens, Pick
from ovi_lab.data.decode import (
    BOTH,
    MediaClip,
    MediaFormat,
    OnResample,
    kind_of,
    missing_part,
    read_about,
    read_latents,
    read_media,
    refuse_other_rate,
)
from ovi_lab.data.encoders import codec_digests
from ovi_lab.data.index import (
    BadSample,
    BadSampleError,
    SampleEntry,
    Shapes,
    ShardIndex,
    bad_sample,
    encoded_by,
    read_index,
)
from ovi_lab.data.shards import ShardReader, expand_shards
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

OnError = Literal["skip", "raise"]
Sample = dict[str, Any]
NO_CODEC = (
    "{} holds media, and no codec was given to encode them: name one, or fit one with `ovi-data fit-codec`"
)
SKIPPED, RATES = "_skipped", "_rates"
_CHANNELS = {"video": (0, 4), "audio": (1, 2), "text": (1, 2)}  # dimension of the channels, and of all


class ClipDataset(Dataset[Sample]):
    """The samples of shards by number, each {"id", "caption", "meta"} and the modalities of "video" [C,F,h,w],
    "audio" [L,C] and "text" [n,E].

    Args:
        shards: a pattern (`train-{000..003}.tar`) or several.
        codec: encodes media to latents; not needed where the shards hold latents.
        media_format: the format that media are converted to before they are encoded; None: as stored.
        on_error: "skip" takes the next good sample of the same shape instead of a bad one; "raise" stops at the first
            bad one.
        on_resample: whether sound of another rate is resampled or refused.
        modalities: of "video" and "audio", those that a sample must have; others are not read.
        stored_text: whether samples must have text embeddings; None: where the first latents have them.
        audio_tokens: which latents of sound are too short, and beside a picture too long, to be taken; a `Pick` says
            how sound is cut.

    Raises:
        UserError: a shard does not exist or is no tar, nothing usable is in them, or their latents are of different
            codecs; with on_error="raise" also the first bad sample.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        codec: LatentCodec | None = None,
        media_format: MediaFormat | None = None,
        on_error: OnError = "skip",
        on_resample: OnResample = "resample",
        modalities: Sequence[str] = BOTH,
        stored_text: bool | None = None,
        audio_tokens: AudioTokens | None = None,
    ) -> None:
        if not modalities or set(modalities) - set(BOTH):
            raise UserError(f"data.modalities is {list(modalities)}; expected video, audio or both")
        self.paths = expand_shards(shards)
        self.codec, self.media_format = codec, media_format
        self.on_error, self.on_resample = on_error, on_resample
        self.modalities = tuple(m for m in BOTH if m in modalities)
        self.made_of = MadeOf()
        self.entries: list[SampleEntry] = []
        self.known_bad: list[BadSample] = []
        self.kinds: set[str] = set()
        self.left_out = 0
        self.shard_facts: list[tuple[str, int, int]] = []
        expected = {}
        for path in self.paths:
            index = read_index(path)
            expected[path] = (index.size, path.stat().st_mtime_ns)
            self.made_of.add(index, (*self.modalities, *(() if stored_text is False else ("text",))))
            if stored_text is None:
                stored_text = _has_text(index)
            before = len(self.entries)
            self._take(index, audio_tokens, bool(stored_text))
            self.shard_facts.append((path.name, index.size, len(self.entries) - before))
        self.parts = (*self.modalities, *(("text",) if stored_text and self.kinds == {"latents"} else ()))
        if self.known_bad and on_error == "raise":
            raise UserError(f"{self.known_bad[0]} (data.on_error=raise)")
        if not self.entries:
            reason = f"; {self.known_bad[0]}" if self.known_bad else ""
            if self.left_out:
                reason = f"; data.audio_tokens leaves {self.left_out} out for their length"
            raise UserError(
                f"no usable clip in {len(self.paths)} shard(s), the first {self.paths[0]}{reason}"
            )
        if audio_tokens is not None and "media" in self.kinds:
            raise UserError(
                "data.audio_tokens is of stored latents, and these shards hold media: "
                "encode them with `ovi-data latents`"
            )
        if self.left_out:
            log.warning(
                "%d of %d clips are left out for the length of their sound (data.audio_tokens)",
                self.left_out,
                self.left_out + len(self.entries),
            )
        self._reader = ShardReader(expected)
        self._found_bad: dict[int, BadSample] = {}

    def _take(self, index: ShardIndex, audio_tokens: AudioTokens | None, text: bool) -> None:
        """Adds a shard's usable samples, and says what is wrong with the others."""
        self.known_bad += index.bad
        for entry in index.entries:
            try:
                kind = kind_of(entry.members, self.modalities)
                if kind == "latents" and entry.shapes is not None:
                    for part in (*self.modalities, *(("text",) if text else ())):
                        if part not in entry.shapes:
                            raise BadSampleError(missing_part(part, entry.shapes))
                    if audio_tokens is not None and not audio_tokens.takes(entry.shapes, self.modalities):
                        self.left_out += 1
                        continue
                    entry = replace(entry, shapes=self._own_shapes(entry.shapes))
            except BadSampleError as error:
                self.known_bad.append(BadSample(index.path.name, entry.key, str(error)))
                continue
            self.kinds.add(kind)
            self.entries.append(entry)

    def _own_shapes(self, shapes: Shapes) -> Shapes | None:
        """The shapes of this data set's modalities; None where one is invalid, which reading the sample reports."""
        wanted = {m: shapes[m] for m in self.modalities}
        return wanted if all(_is_whole(m, shape) for m, shape in wanted.items()) else None

    @property
    def shapes(self) -> list[Shapes | None]:
        """The shapes of each sample's latents; None where only reading it tells."""
        return [entry.shapes for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int | Pick) -> Sample:
        """The sample of that number, or, where it is bad, the next good one, if possible of its shape; the bad ones met
        are under "_skipped".
        """
        pick = index if isinstance(index, Pick) else Pick(index)
        skipped: list[BadSample] = []
        for number in self._in_place_of(pick.number):
            try:
                if number not in self._found_bad:
                    sample = self.read(number)
                    if pick.length:
                        sample["audio"] = _cut(sample["audio"], pick)
                    return {**sample, **({SKIPPED: skipped} if skipped else {})}
            except BadSampleError as error:
                entry = self.entries[number]
                self._found_bad[number] = BadSample(entry.shard.name, entry.key, str(error))
            bad = self._found_bad[number]
            if self.on_error == "raise":
                raise UserError(f"{bad} (data.on_error=raise)")
            skipped.append(bad)
        raise UserError(f"none of {len(self.entries)} clips can be used; {skipped[0]}")

    def _in_place_of(self, number: int) -> Iterator[int]:
        """The sample's number, then those after it of the same shape (or of one not known), then the rest."""
        yield number
        shapes = self.entries[number].shapes
        for wanted in (True, False):
            for step in range(1, len(self.entries)):
                other = (number + step) % len(self.entries)
                alike = shapes is None or self.entries[other].shapes in (None, shapes)
                if alike == wanted:
                    yield other

    def read(self, number: int) -> Sample:
        """The sample of that number itself. Raises BadSampleError where it is bad, UserError where its shard is."""
        entry = self.entries[number]
        members = self._reader.read(entry)
        if kind_of(members, self.modalities) == "latents":
            about = read_about(members)
            latents = read_latents(members, self.parts, about)
            self._compare(entry, latents, encoded_by(about))
            return {"id": entry.key, **latents}
        clip = self._media(members)
        if self.codec is None:
            raise UserError(NO_CODEC.format(entry.shard))
        sample: Sample = {"id": entry.key, "caption": clip.caption, "meta": clip.meta}
        with bad_sample():
            if "video" in self.modalities:
                sample["video"] = self.codec.video.encode(clip.frames_THWC[None])[0]
            if "audio" in self.modalities:
                sample["audio"] = self.codec.audio.encode(clip.wave_S[None])[0]
        if not all(bool(torch.isfinite(sample[m]).all()) for m in self.modalities):
            raise BadSampleError("its latents hold NaN or infinity")
        return {**sample, RATES: (clip.source_rate, clip.sample_rate)}

    def _compare(self, entry: SampleEntry, sample: Sample, origin: Mapping[str, str]) -> None:
        """Raises BadSampleError where a sample of latents is another than the index of its shard says."""
        for part in self.parts:
            known = self.made_of.encoders.get(part, ("nothing", ""))[0]
            if origin.get(part, known) != known:
                raise BadSampleError(
                    f"its {part} latents were made by {origin[part]}, by its index by {known}"
                )
            shape = (entry.shapes or {}).get(part)
            if shape is not None and shape != tuple(sample[part].shape):
                raise BadSampleError(
                    f"its {part} latents have the shape {list(sample[part].shape)}, by its index {list(shape)}"
                )

    def media(self, number: int) -> MediaClip:
        """The decoded clip of that number. Raises BadSampleError where it is bad or holds latents alone."""
        members = self._reader.read(self.entries[number])
        if kind_of(members, self.modalities) != "media":
            raise BadSampleError("it holds latents, no media")
        return self._media(members)

    def _media(self, members: Mapping[str, bytes]) -> MediaClip:
        """The clip in the data set's media format, its sound at the codec's rate."""
        fps = None if self.codec is None else self.codec.fps
        clip = read_media(members, self.media_format, self.on_resample, self.modalities, fps)
        if self.codec is None:
            return clip
        return at_rates(clip, self.codec.fps, self.codec.sample_rate, self.on_resample)


def at_rates(clip: MediaClip, fps: float, sample_rate: int, on_resample: OnResample) -> MediaClip:
    """The clip with its sound at a codec's rate.

    Raises:
        UserError: its frames have another rate than the codec's, or its sound has and may not be resampled.
    """
    if clip.fps and other_rate(clip.fps, fps):
        raise UserError(
            f"clips have {clip.fps:g} frames/s, this codec was fitted at {fps:g}; "
            "set data.fps (with num_frames, height, width and sample_rate), or fit a codec on these clips"
        )
    if clip.sample_rate != sample_rate:
        refuse_other_rate(clip.sample_rate, sample_rate, on_resample)
        clip.wave_S = resample(clip.wave_S, clip.sample_rate, sample_rate)
        clip.sample_rate = sample_rate
    return clip


def other_rate(fps: float, wanted: float) -> bool:
    """Whether frames at `fps` a second differ from the rate `wanted`."""
    return abs(fps - wanted) > 1e-3 * wanted


@dataclass
class MadeOf:
    """The encoder and the channels of latents, by part and with the first shard that states them."""

    encoders: dict[str, tuple[str, str]] = field(default_factory=dict)
    channels: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, index: ShardIndex, parts: Sequence[str]) -> None:
        """Adds a shard. Raises UserError where its latents do not match those before it."""
        found = MadeOf()
        for part in parts:
            for encoder in index.encoders.get(part, ()):
                found.encoders[part] = (encoder, str(index.path))
                self.refuse_other(found)
        for entry in index.entries:
            for part, shape in (entry.shapes or {}).items():
                if part in parts and _is_whole(part, shape):
                    found.channels[part] = (f"{shape[_CHANNELS[part][0]]} channels", str(index.path))
                    if self.channels.get(part, ("",))[0] != found.channels[part][0]:
                        self.refuse_other(found)

    def refuse_other(self, other: MadeOf) -> None:
        """Adds what another states; raises UserError where the two do not match."""
        for mine, theirs, how in (
            (self.encoders, other.encoders, "were made by"),
            (self.channels, other.channels, "have"),
        ):
            for part, (fact, shard) in theirs.items():
                known, first = mine.setdefault(part, (fact, shard))
                if known != fact:
                    raise UserError(
                        f"the {part} latents of {shard} {how} {fact}, those of {first} {how} {known}: "
                        "use latents of one encoder"
                    )

    def refuse_codec(self, codec: Path) -> None:
        """Raises UserError where the latents say that another codec than that file, or folder, made them."""
        digests = codec_digests(codec) if self.encoders else {}
        for part, (encoder, shard) in self.encoders.items():
            digest = digests.get(part)
            if digest and digest not in encoder:
                raise UserError(
                    f"data.codec={codec} (sha256:{digest}) did not make the {part} latents of {shard}, "
                    f"{encoder} did: name the codec that they were made by"
                )


def _is_whole(part: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == _CHANNELS[part][1]


def _has_text(index: ShardIndex) -> bool | None:
    """Whether the first latents of a shard bring text embeddings; None where it holds no latents."""
    return next(("text" in entry.shapes for entry in index.entries if entry.shapes is not None), None)


def _cut(audio_LC: torch.Tensor, pick: Pick) -> torch.Tensor:
    """A pick fitted to the clip's length, as another clip may replace a bad one."""
    start = max(0, min(pick.start, len(audio_LC) - pick.length))
    return audio_LC[start : start + pick.length].clone()


def media_runs(
    dataset: ClipDataset, size: int, limit: int | None = None
) -> Iterator[list[tuple[int, MediaClip]]]:
    """The first `limit` good clips in order, in runs of at most `size` of one shape, each with its number.

    Bad ones are left out with a warning, or raised as a UserError, by the data set's `on_error`.
    """
    return of_one_shape(islice(_good_media(dataset), limit), size)


def _good_media(dataset: ClipDataset) -> Iterator[tuple[int, MediaClip]]:
    for number, entry in enumerate(dataset.entries):
        try:
            yield number, dataset.media(number)
        except BadSampleError as error:
            bad = BadSample(entry.shard.name, entry.key, str(error))
            if dataset.on_error == "raise":
                raise UserError(f"{bad} (data.on_error=raise)") from error
            log.warning("skipped %s", bad)


Name = TypeVar("Name", int, str)


def of_one_shape(
    clips: Iterable[tuple[Name, MediaClip]], size: int
) -> Iterator[list[tuple[Name, MediaClip]]]:
    """Named clips in order, in runs of at most `size` of one shape."""
    for _, alike in groupby(clips, lambda named: (named[1].frames_THWC.shape, named[1].wave_S.shape)):
        while run := list(islice(alike, size)):
            yield run
