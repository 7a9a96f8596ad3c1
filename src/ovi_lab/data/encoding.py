"""Shards of media (or a folder of sounds) -> shards of latents, once: one shard for each, resumed where it stopped.

Shape suffixes: N clips, T frames, H rows, W columns, C channels, S samples.
"""

from __future__ import annotations

import glob
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ovi_eval.common.shown import shown
from ovi_lab.common.progress import progress
from ovi_lab.data.dataset import OnError, at_rates, of_one_shape, other_rate
from ovi_lab.data.decode import (
    MediaClip,
    OnResample,
    kind_of,
    latent_members,
    read_media,
)
from ovi_lab.data.encoders import Encoders
from ovi_lab.data.index import (
    BadSample,
    BadSampleError,
    bad_sample,
    read_index,
    stated_origin,
    stored_index,
    write_index,
)
from ovi_lab.data.media_sources import MediaSource, digest_of
from ovi_lab.data.shards import ShardWriter, numbered_shards, remove_shard
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")


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
        overwrite: shards there that were made otherwise are made again, and those past the last are removed.

    Raises:
        UserError: without `overwrite`, a shard of that name is there and was made otherwise, before anything is
            encoded; no clip can be encoded; a full disk.
    """
    width = max(3, len(str(len(sources) - 1)))
    paths = [prefix.with_name(f"{prefix.name}-{number:0{width}d}.tar") for number in range(len(sources))]
    made = {"format": FORMAT, "by": dict(encoders.names), "settings": dict(encoders.settings)}
    made["dtype"] = str(dtype).removeprefix("torch.")
    mine = list(zip(paths, sources, strict=True))[part[0] :: part[1]]
    surplus = [path for path in numbered_shards(prefix) if path not in paths]
    report = EncodeReport()
    there = [(path, source) for path, source in mine if path.is_file()]
    for path, source in progress(
        iter(there), "comparing shards", len(there), not quiet and sys.stderr.isatty()
    ):
        reason = _other(path, {**made, "from": _origin(source)})
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
            _add_skipped(report, path, source.name)
        else:
            made_of = {**made, "from": _origin(source)}
            _encode_shard(path, source, made_of, encoders, dtype, batch_size, on_error, on_resample, report)
        _refuse(report.bad, on_error)
    if mine and not report.made and not report.there:
        raise UserError(f"none of the clips of {len(mine)} shard(s) can be encoded; {report.bad[0]}")
    return report


def _other_there(path: Path, reason: str) -> str:
    return (
        f"{shown(path)} is there, made of other clips, by other encoders or in another --dtype ({reason}): "
        "pass --overwrite to make such shards again, delete it, or choose another --out"
    )


def _origin(source: MediaSource) -> dict[str, str]:
    return {"name": source.name, "sha256": source.sha256}


def identity(made: Mapping[str, Any]) -> str:
    """Digest of a shard's input: of content, not of names."""
    return digest_of({**made, "from": made["from"]["sha256"]})


def _encode_shard(
    path: Path,
    source: MediaSource,
    made: dict[str, Any],
    encoders: Encoders,
    dtype: torch.dtype,
    batch_size: int,
    on_error: OnError,
    on_resample: OnResample,
    report: EncodeReport,
) -> None:
    """One source's shard, where any of its clips can be encoded."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a process that was killed
        stale.unlink(missing_ok=True)
    bad: list[BadSample] = []
    digest = identity(made)
    samples = _encoded(source, encoders, dtype, batch_size, on_resample, bad, report.retimed, digest)
    first = next(samples, None)
    if first is None:
        _refuse(bad, on_error)
        remove_shard(path)  # made of other clips; of these there is none
    else:
        with ShardWriter(path, made) as shard:
            for key, members in chain([first], samples):
                _refuse(bad, on_error)
                shard.write(key, members)
            _refuse(bad, on_error)  # here, where an error leaves no shard
            made["skipped"] = [[sample.key, sample.reason] for sample in bad]
        report.made.append(path)
        report.clips += shard.count
    report.bad += bad


def _refuse(bad: Sequence[BadSample], on_error: OnError) -> None:
    if bad and on_error == "raise":
        raise UserError(f"{bad[0]} (--on-error raise)")


def _other(path: Path, made: dict[str, Any]) -> str:
    """Why the shard that is there is another than the one to be made; nothing where it is that one, whole.

    What each of its samples says counts, not the index beside it.
    """
    index = read_index(path)
    with path.open("rb") as file:
        origins = {stated_origin(file.fileno(), entry)[1] for entry in index.entries}
    if not index.bad and origins == {identity(made)}:
        if stored_index(path) is None:
            # A tar appears whole; a process killed at that moment left it without its index.
            write_index(path, made)
        return ""
    before = index.made or {}
    if index.bad:
        return f"it is damaged: {index.bad[0].reason}"
    differs = [what for key, what in _DIFFERS.items() if key in before and before[key] != made[key]]
    return f"another {' and '.join(differs)}" if differs else "it does not say of which"


_DIFFERS = {
    "from": "set of clips or captions",
    "by": "set of encoders",
    "settings": "setting of the encoders",
    "dtype": "--dtype",
    "format": "version of this program",
}


def _add_skipped(report: EncodeReport, path: Path, name: str) -> None:
    """The clips that were skipped when an existing shard was made."""
    made = read_index(path).made or {}
    skipped = made.get("skipped")
    for pair in skipped if isinstance(skipped, list) else ():
        if isinstance(pair, list) and len(pair) == 2:
            report.bad.append(BadSample(name, str(pair[0]), str(pair[1])))


def _encoded(
    source: MediaSource,
    encoders: Encoders,
    dtype: torch.dtype,
    batch_size: int,
    on_resample: OnResample,
    bad: list[BadSample],
    retimed: list[str],
    made_of: str,
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, members) of each clip that can be encoded, in order; the others go to `bad`."""
    for run in of_one_shape(_clips(source, encoders, on_resample, bad, retimed), batch_size):
        try:
            yield from encode_run(run, encoders, dtype, made_of)
        except BadSampleError as error:
            if len(run) == 1:
                bad.append(BadSample(source.name, run[0][0], str(error)))
                continue
            for one in run:  # which of them it is shows alone
                try:
                    yield from encode_run([one], encoders, dtype, made_of)
                except BadSampleError as alone:
                    bad.append(BadSample(source.name, one[0], str(alone)))


def _clips(
    source: MediaSource, encoders: Encoders, on_resample: OnResample, bad: list[BadSample], retimed: list[str]
) -> Iterator[tuple[str, MediaClip]]:
    for key, members in source.samples(bad):
        try:
            if kind_of(members, encoders.modalities) == "latents":
                raise UserError(f"{source.name} holds latents already; encode shards of media")
            clip = read_media(members, None, on_resample, encoders.modalities, encoders.fps)
            if clip.fps and other_rate(clip.fps, encoders.fps):
                raise BadSampleError(f"it has {clip.fps:g} frames/s, the encoder takes {encoders.fps:g}")
            if clip.source_fps and other_rate(clip.source_fps, encoders.fps):
                retimed.append(
                    f"{source.name}: {key}: from {clip.source_fps:.4g} to {encoders.fps:.4g} frames/s"
                )
            yield key, at_rates(clip, encoders.fps, encoders.sample_rate, on_resample)
        except BadSampleError as error:
            bad.append(BadSample(source.name, key, str(error)))
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
        if encoders.video is not None:
            parts["video"] = encoders.video.encode(torch.stack([clip.frames_THWC for clip in clips]))
        parts["audio"] = encoders.audio.encode(torch.stack([clip.wave_S for clip in clips]))
    encoded = []
    for n, (key, clip) in enumerate(run):
        tensors = {part: tensors[n].to("cpu", dtype) for part, tensors in parts.items()}
        for part, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise BadSampleError(f"its {part} latents hold NaN or infinity")
        members = latent_members(
            clip.caption,
            clip.meta,
            tensors.get("video"),
            tensors["audio"],
            tensors.get("text"),
            encoders.names,
            made_of,
        )
        encoded.append((key, members))
    return encoded
