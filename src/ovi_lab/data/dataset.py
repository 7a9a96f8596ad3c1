"""The data set of latents over shards: media encoded as they are read, or stored latents.

Shape suffixes: C channels, F h w latent frames, rows, columns, L tokens, n words, E text channels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from ovi_eval.clips.writing import resample
from ovi_lab.codecs import LatentCodec, VideoCodec
from ovi_lab.common.values import check_settings
from ovi_lab.data.buckets import AudioTokens, Pick
from ovi_lab.data.clip_columns import Reading
from ovi_lab.data.clip_list import clips_of
from ovi_lab.data.decode import MediaClip, OnResample, read_about, read_latents, read_media, refuse_other_rate
from ovi_lab.data.index import (
    BadSample,
    BadSampleError,
    SampleEntry,
    bad_sample,
    encoded_by,
)
from ovi_lab.data.kinds import BOTH, Require, kind_of, modalities_of
from ovi_lab.data.media_format import MediaFormat
from ovi_lab.data.shapes import ClipShapes, chunks
from ovi_lab.data.shards import ShardReader, expand_shards
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

OnError = Literal["skip", "raise"]
Sample = dict[str, Any]
NO_CODEC = (
    "{} holds media, and no codec was given to encode them: name one, or fit one with `ovi-data fit-codec`"
)
SKIPPED, RATES = "_skipped", "_rates"


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
        require: whether a sample must have all `modalities`, or "any": then a sample is what it has of them, and media
            have what their members' names say.
        audio_tokens: which latents of sound are too short, and with a picture too long, to be taken; a `Pick` says
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
        require: Require = "all",
    ) -> None:
        check_settings("data", {"require": require})
        if not modalities or set(modalities) - set(BOTH):
            raise UserError(f"data.modalities is {list(modalities)}; expected video, audio or both")
        self.paths = expand_shards(shards)
        self.codec, self.media_format = codec, media_format
        self.on_error, self.on_resample = on_error, on_resample
        self.modalities, self.require = tuple(m for m in BOTH if m in modalities), require
        reading = Reading(self.modalities, stored_text, audio_tokens, require)
        self.entries = clips_of(self.paths, reading)
        found = self.entries
        self.known_bad, self.kinds, self.left_out, self.made_of = (
            found.bad,
            found.kinds,
            found.left_out,
            found.made_of,
        )
        stored_text = found.stored_text
        self.shard_facts: list[tuple[str, int, int]] = [
            (path.name, fact.size, count)
            for path, fact, count in zip(self.paths, self.entries.facts, self.entries.counts, strict=True)
        ]
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
        facts = zip(self.paths, self.entries.facts, strict=True)
        self._reader = ShardReader({path: (fact.size, fact.changed) for path, fact in facts})
        self._found_bad: dict[int, BadSample] = {}

    @property
    def shapes(self) -> ClipShapes:
        """The shapes of each sample's latents; None where only reading it tells."""
        return self.entries.shapes

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
                    # a clip with a picture is never cut, but may stand in for a shorter one that is bad
                    if pick.length and "video" not in sample:
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
        """The sample's number, then those after it of the same shape (or of one not known), then the rest with the same
        modalities."""
        yield number
        count = len(self.entries)
        after = [
            slice(number + 1 + part.start, number + 1 + part.stop) for part in chunks(count - number - 1)
        ]
        for wanted in (True, False):
            for part in (*after, *chunks(number)):
                alike_N = self.entries.shapes.alike(number, part) == wanted
                alike_N &= self.entries.shapes.of_kind(number, part)
                yield from (part.start + np.flatnonzero(alike_N)).tolist()

    def read(self, number: int) -> Sample:
        """The sample of that number itself. Raises BadSampleError where it is bad, UserError where its shard is."""
        entry = self.entries[number]
        members = self._reader.read(entry)
        if kind_of(members, self.modalities, self.require) == "latents":
            about = read_about(members)
            known = entry.shapes or self.parts
            parts = (
                self.parts if self.require == "all" else [p for p in self.parts if p == "text" or p in known]
            )
            latents = read_latents(members, parts, about)
            self._compare(entry, latents, encoded_by(about))
            return {"id": entry.key, **latents}
        clip = self._media(members)
        if self.codec is None:
            raise UserError(NO_CODEC.format(entry.shard))
        sample: Sample = {"id": entry.key, "caption": clip.caption, "meta": clip.meta}
        with bad_sample():
            if clip.has_video:
                sample["video"] = encode_pictures(self.codec.video, clip.frames_THWC[None])[0]
            if clip.has_audio:
                sample["audio"] = self.codec.audio.encode(clip.wave_S[None])[0]
        if not all(bool(torch.isfinite(sample[m]).all()) for m in self.modalities if m in sample):
            raise BadSampleError("its latents hold NaN or infinity")
        return {**sample, RATES: (clip.source_rate, clip.sample_rate)}

    def _compare(self, entry: SampleEntry, sample: Sample, origin: Mapping[str, str]) -> None:
        """Raises BadSampleError where a sample of latents is another than the index of its shard says."""
        for part in (p for p in self.parts if p in sample):
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
        if kind_of(members, self.modalities, self.require) != "media":
            raise BadSampleError("it holds latents, no media")
        return self._media(members)

    def _media(self, members: Mapping[str, bytes]) -> MediaClip:
        """The clip in the data set's media format, its sound at the codec's rate."""
        fps = None if self.codec is None else self.codec.fps
        wanted = self.modalities if self.require == "all" else modalities_of(members, self.modalities)
        clip = read_media(members, self.media_format, self.on_resample, wanted, fps)
        if self.codec is None:
            return clip
        return at_rates(clip, self.codec.fps, self.codec.sample_rate, self.on_resample)


def at_rates(clip: MediaClip, fps: float, sample_rate: int, on_resample: OnResample) -> MediaClip:
    """The clip with its sound at a codec's rate.

    Raises:
        UserError: its frames have another rate than the codec's, or its sound has and may not be resampled.
    """
    if clip.fps and other_rate(clip.fps, fps) and not clip.is_still:
        raise UserError(
            f"clips have {clip.fps:g} frames/s, this codec was fitted at {fps:g}; "
            "set data.fps (with num_frames, height, width and sample_rate), or fit a codec on these clips"
        )
    if clip.has_audio and clip.sample_rate != sample_rate:
        refuse_other_rate(clip.sample_rate, sample_rate, on_resample)
        clip.wave_S = resample(clip.wave_S, clip.sample_rate, sample_rate)
        clip.sample_rate = sample_rate
    return clip


def encode_pictures(codec: VideoCodec, frames_NTHWC: torch.Tensor) -> torch.Tensor:
    """Frames [N,T,H,W,3] to latents [N,C,F,h,w]; a still is one latent frame, also of a codec that makes one of
    several frames."""
    if frames_NTHWC.shape[1] == 1 and not codec.first_frame_alone:
        frames_NTHWC = frames_NTHWC.expand(-1, codec.strides[0], -1, -1, -1).contiguous()
    return codec.encode(frames_NTHWC)


def other_rate(fps: float, wanted: float) -> bool:
    """Whether frames at `fps` a second differ from the rate `wanted`."""
    return abs(fps - wanted) > 1e-3 * wanted


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
