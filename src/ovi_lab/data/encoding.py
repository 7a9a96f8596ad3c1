"""Shards of media (or a folder of sounds) -> shards of latents, once: one shard for each, resumed where it stopped.

Shape suffixes: N clips, T frames, H rows, W columns, C channels, S samples.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ovi_eval.common.shown import shown
from ovi_lab.common.progress import progress
from ovi_lab.data.dataset import OnError, at_rates, encode_pictures, of_one_shape, other_rate
from ovi_lab.data.decode import MediaClip, OnResample, latent_members, read_media
from ovi_lab.data.encoders import Encoders
from ovi_lab.data.index import (
    LATENT_PARTS,
    BadSample,
    BadSampleError,
    bad_sample,
    digest_of,
    read_index,
    stated_origin,
    stored_index,
    write_index,
)
from ovi_lab.data.kinds import Require, kind_of, modalities_in
from ovi_lab.data.media_sources import MediaSource
from ovi_lab.data.shard_files import LocalFile
from ovi_lab.data.shards import ShardWriter, numbered_shards, remove_shard
from ovi_lab.errors import UserError

FORMAT = "ovi_lab.latents/2"
"""Version of the stored format: raised where the same clips by the same encoders become other latents."""


@dataclass
class EncodeReport:
    """The result of an encoding; `retimed`: clips of another rate than the encoder's, in words."""

    made: list[Path] = field(default_factory=list)
    there: list[Path] = field(default_factory=list)
    replaced: list[Path] = field(default_factory=list)
    clips: int = 0
    bad: list[BadSample] = field(default_factory=list)
    retimed: list[str] = field(default_factory=list)


def encode_sources(
    sources: Sequence[MediaSource],
    prefix: Path,
    encoders: Encoders,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 8,
    part: tuple[int, int] = (0, 1),
    on_error: OnError = "skip",
    on_resample: OnResample = "resample",
    quiet: bool = False,
    overwrite: bool = False,
    require: Require = "all",
) -> EncodeReport:
    """Encode every source into the shard of its number, `<prefix>-000.tar`, …; shards of the same input stay.

    A shard is kept where clips and captions, encoders and settings are the same, by their content.

    Args:
        sources: in the order of their numbers, all of them, also for one of several processes.
        prefix: of the shards.
        dtype: of what is stored.
        batch_size: clips of one size encoded at once.
        part: (i, n): the sources i, i + n, … are this process's.
        on_error: "skip" clips that cannot be encoded, counted and named, or "raise" at the first.
        require: whether clips must have all modalities that the encoders take, or "any": then latents are of those that
            a clip has.
        overwrite: shards there that were made otherwise are made again, and those past the last are removed.

    Raises:
        UserError: without `overwrite`, a shard of that name is there and was made otherwise, before anything is
            encoded; no clip can be encoded; a full disk.
    """
    width = max(3, len(str(len(sources) - 1)))
    paths = [prefix.with_name(f"{prefix.name}-{number:0{width}d}.tar") for number in range(len(sources))]
    encoding = _Encoding(encoders, dtype, batch_size, on_error, on_resample, require)
    report = encoding.report
    mine = list(zip(paths, sources, strict=True))[part[0] :: part[1]]
    surplus = [path for path in numbered_shards(prefix) if path not in paths]
    there = [(path, source) for path, source in mine if path.is_file()]
    for path, source in progress(
        iter(there), "comparing shards", len(there), not quiet and sys.stderr.isatty()
    ):
        reason = _difference(path, encoding.origin(source))
        if not reason:
            report.there.append(path)
        elif overwrite:
            report.replaced.append(path)
        else:
            raise UserError(_other_there(path, reason))
    if surplus and not overwrite:
        raise UserError(_other_there(surplus[0], f"these clips make {len(sources)} shards"))
    for path in surplus if part[0] == 0 else ():
        remove_shard(path)
        report.replaced.append(path)
    for path, source in progress(iter(mine), "encoding shards", len(mine), not quiet):
        if path in report.there:
            encoding.skip_as_before(path, source)
        else:
            encoding.make_shard(path, source)
    if mine and not report.made and not report.there:
        raise UserError(f"none of the clips of {len(mine)} shard(s) can be encoded; {report.bad[0]}")
    return report


def _other_there(path: Path, reason: str) -> str:
    return (
        f"{shown(path)} is there, made of other clips, by other encoders or in another --dtype ({reason}): "
        "pass --overwrite to make such shards again, delete it, or choose another --out"
    )


def identity(made: Mapping[str, Any]) -> str:
    """Digest of a shard's input: of content, not of names."""
    return digest_of({**made, "from": made["from"]["sha256"]})


_DIFFERS = {
    "from": "set of clips or captions",
    "by": "set of encoders",
    "settings": "setting of the encoders",
    "dtype": "--dtype",
    "require": "--require",
    "format": "version of this program",
}


def _difference(path: Path, made: dict[str, Any]) -> str:
    """How an existing shard differs from the one to be made; "" where it is that one, complete.

    The origin that each of its samples states counts, not the index beside it.
    """
    index = read_index(path)
    if index.bad:
        return f"it is damaged: {index.bad[0].reason}"
    with closing(LocalFile(path)) as file:
        origins = {stated_origin(file, entry)[1] for entry in index.entries}
    if origins == {identity(made)}:
        if stored_index(path) is None:
            # A tar appears whole; a process killed at that moment left it without its index.
            write_index(path, made)
        return ""
    before = index.made or {}
    differs = [what for key, what in _DIFFERS.items() if before and before.get(key) != made.get(key)]
    return f"another {' and '.join(differs)}" if differs else "it does not say of which"


class _Encoding:
    """The encoding of sources to shards by the same encoders and settings, with its report."""

    def __init__(
        self,
        encoders: Encoders,
        dtype: torch.dtype,
        batch_size: int,
        on_error: OnError,
        on_resample: OnResample,
        require: Require,
    ) -> None:
        self.require: Require = require
        self.encoders, self.dtype, self.batch_size = encoders, dtype, batch_size
        self.on_error, self.on_resample = on_error, on_resample
        self.report = EncodeReport()

    def origin(self, source: MediaSource) -> dict[str, Any]:
        """All that decides the shard of a source, in plain values."""
        return {
            "format": FORMAT,
            "by": dict(self.encoders.names),
            "settings": dict(self.encoders.settings),
            "dtype": str(self.dtype).removeprefix("torch."),
            "from": {"name": source.name, "sha256": source.sha256},
            **({} if self.require == "all" else {"require": self.require}),
        }

    def make_shard(self, path: Path, source: MediaSource) -> None:
        """The shard of a source; none where none of its clips can be encoded."""
        for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a process that was killed
            stale.unlink(missing_ok=True)
        made, bad_before = self.origin(source), len(self.report.bad)
        samples = self._encoded(source, identity(made))
        first = next(samples, None)
        if first is None:
            remove_shard(path)  # made of other clips
            return
        with ShardWriter(path, made) as shard:
            for key, members in chain([first], samples):
                shard.write(key, members)
            made["skipped"] = [[sample.key, sample.reason] for sample in self.report.bad[bad_before:]]
        self.report.made.append(path)
        self.report.clips += shard.count

    def skip_as_before(self, path: Path, source: MediaSource) -> None:
        """Reports the clips that were skipped when an existing shard was made."""
        skipped = (read_index(path).made or {}).get("skipped")
        for pair in skipped if isinstance(skipped, list) else ():
            if isinstance(pair, list) and len(pair) == 2:
                self._skip(source, str(pair[0]), str(pair[1]))

    def _skip(self, source: MediaSource, key: str, reason: object) -> None:
        bad = BadSample(source.name, key, str(reason))
        if self.on_error == "raise":
            raise UserError(f"{bad} (--on-error raise)")
        self.report.bad.append(bad)

    def _encoded(self, source: MediaSource, made_of: str) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(key, members) of each clip that can be encoded, in order."""
        for run in of_one_shape(self._clips(source), self.batch_size):
            yield from self._encoded_run(source, run, made_of)

    def _encoded_run(
        self, source: MediaSource, run: Sequence[tuple[str, MediaClip]], made_of: str
    ) -> list[tuple[str, dict[str, bytes]]]:
        try:
            return encode_run(run, self.encoders, self.dtype, made_of)
        except BadSampleError as error:
            if len(run) > 1:  # the bad one is found by encoding each alone
                return [sample for one in run for sample in self._encoded_run(source, [one], made_of)]
            self._skip(source, run[0][0], error)
            return []

    def _clips(self, source: MediaSource) -> Iterator[tuple[str, MediaClip]]:
        fps = self.encoders.fps
        for key, members in source.samples():
            try:
                if isinstance(members, BadSampleError):
                    raise members
                if kind_of(members, self.encoders.modalities, self.require) == "latents":
                    raise UserError(f"{source.name} holds latents already; encode shards of media")
                modalities = self.encoders.modalities
                if self.require == "any":
                    modalities = modalities_in(members, modalities)
                clip = read_media(members, None, self.on_resample, modalities, fps)
                if clip.fps and other_rate(clip.fps, fps) and not clip.is_still:
                    raise BadSampleError(f"it has {clip.fps:g} frames/s, the encoder takes {fps:g}")
                if clip.source_fps and other_rate(clip.source_fps, fps):
                    rates = f"from {clip.source_fps:.4g} to {fps:.4g} frames/s"
                    self.report.retimed.append(f"{source.name}: {key}: {rates}")
                yield key, at_rates(clip, fps, self.encoders.sample_rate, self.on_resample)
            except BadSampleError as error:
                self._skip(source, key, error)
            except UserError as error:
                raise UserError(f"{shown(source.name)}: {shown(key)}: {error}") from error


def encode_run(
    run: Sequence[tuple[str, MediaClip]],
    encoders: Encoders,
    dtype: torch.dtype = torch.float32,
    made_of: str = "",
) -> list[tuple[str, dict[str, bytes]]]:
    """(key, members) of clips of one shape; `made_of` is written into each.

    Raises BadSampleError where they do not fit, or latents are not finite.
    """
    clips = [clip for _, clip in run]
    parts: dict[str, torch.Tensor | list[torch.Tensor]] = {}
    with bad_sample():
        if encoders.text is not None:  # first, as it costs least to refuse
            parts["text"] = encoders.text([clip.caption for clip in clips])
        if encoders.video is not None and clips[0].has_video:
            frames_NTHWC = torch.stack([clip.frames_THWC for clip in clips])
            parts["video"] = encode_pictures(encoders.video, frames_NTHWC)
        if clips[0].has_audio:
            parts["audio"] = encoders.audio.encode(torch.stack([clip.wave_S for clip in clips]))
    encoded = []
    for n, (key, clip) in enumerate(run):
        tensors = {part: tensors[n].to("cpu", dtype) for part, tensors in parts.items()}
        for part, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise BadSampleError(f"its {part} latents hold NaN or infinity")
        video, audio, text = (tensors.get(part) for part in LATENT_PARTS)
        about = (clip.caption, clip.meta)
        encoded.append((key, latent_members(*about, video, audio, text, encoders.names, made_of)))
    return encoded
