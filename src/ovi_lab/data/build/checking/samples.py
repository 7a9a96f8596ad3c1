"""One shard against its index, and its samples one by one. Everything here runs in worker processes.

Shapes: T frames, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovi_eval.clips.clip import missing_at_end
from ovi_eval.common.files import file_sha256
from ovi_lab.data.decode import LATENTS, read_about, read_latents, read_media
from ovi_lab.data.index import (
    BadSample,
    BadSampleError,
    bad_sample,
    digest_of,
    index_path,
    scan_shard,
    stored_index,
)
from ovi_lab.data.kinds import FRAMES, kind_of, modalities_in
from ovi_lab.data.shard_files import Shard, local_copy
from ovi_lab.data.shards import ShardReader
from ovi_lab.data.stores import facts_of
from ovi_lab.errors import UserError

AAC_FRAME = 1024
"""Samples of a frame of AAC: a decoded track may be longer by one."""


@dataclass
class ShardCheck:
    """What a shard is, by its own bytes. `keys`: of its usable samples in their order."""

    shard: Shard
    sha256: str = ""
    size: int = 0
    keys: list[str] = field(default_factory=list)
    faults: list[BadSample] = field(default_factory=list)


@dataclass
class SampleCheck:
    """A sample: its picture and sound in seconds (0 without one), its fault, and `record_of` what it says of itself."""

    key: str
    picture: float = 0.0
    sound: float = 0.0
    fault: str = ""
    record: str = ""


def check_shard(shard: Shard) -> ShardCheck:
    """The shard's digest and samples, and what its index says otherwise."""
    found = ShardCheck(shard)

    def fault(reason: str) -> None:
        found.faults.append(BadSample(shard.name, "(whole shard)", reason))

    try:
        found.sha256 = file_sha256(local_copy(shard))
        scanned = scan_shard(shard)
    except UserError as error:
        fault(str(error))
        return found
    except FileNotFoundError:
        fault("it is gone")
        return found
    found.size, found.keys = scanned.size, [entry.key for entry in scanned.entries]
    found.faults += scanned.bad
    index = stored_index(shard)
    if index is None:
        if _has_index(shard):
            fault("its index is damaged, or older than the shard, or of another one; delete it")
    elif index.sha256 != found.sha256:
        fault("its sha256 is not the one in its index")
    elif {e.key: e.members for e in index.entries} != {e.key: e.members for e in scanned.entries}:
        fault("its index names other samples or places than the tar holds; delete the index")
    return found


def _has_index(shard: Shard) -> bool:
    if isinstance(shard, Path):
        return index_path(shard).is_file()
    if shard.is_pipe:
        return False
    try:
        facts_of(index_path(shard))
    except FileNotFoundError:
        return False
    return True


def check_samples(shard: Shard, keys: list[str]) -> list[SampleCheck]:
    """These samples, each decoded whole."""
    wanted = set(keys)
    reader = ShardReader()
    found = []
    try:
        entries = scan_shard(shard).entries
    except (UserError, FileNotFoundError) as error:
        reason = str(error) if isinstance(error, UserError) else "its shard is gone"
        return [SampleCheck(key, fault=reason) for key in keys]
    for entry in entries:
        if entry.key in wanted:
            sample = SampleCheck(entry.key)
            try:
                _decode(reader.read(entry), sample)
            except (BadSampleError, UserError) as error:
                sample.fault = str(error)
            found.append(sample)
    reader.close()
    return found


def _decode(members: Mapping[str, bytes], sample: SampleCheck) -> None:
    """Decodes a sample and compares the lengths of its parts. Raises BadSampleError for a fault."""
    about = read_about(members)
    meta = about["meta"]
    sample.record = record_of(about["caption"], meta.get("file"), meta.get("start_s"), meta.get("scores"))
    if LATENTS in members:
        read_latents(members, None, about)
        return
    modalities = modalities_in(members)
    kind_of(members, modalities)
    frame = rate = 0.0
    if "video" in modalities:
        clip = read_media(members, modalities=("video",))
        sample.picture, frame = len(clip.frames_THWC) / clip.fps, 1 / clip.fps
        if clip.is_still and "audio" not in modalities:
            return  # a picture of any length
    if "audio" in modalities:
        clip = read_media(members, modalities=("audio",))
        sample.sound, rate = len(clip.wave_S) / clip.sample_rate, clip.sample_rate
    scores = meta.get("scores")
    stated = scores.get("seconds") if isinstance(scores, dict) else None
    slack = frame + (AAC_FRAME / rate if rate else 0.0)
    if isinstance(stated, int | float) and not isinstance(stated, bool):
        for name, seconds in (("picture", sample.picture), ("sound", sample.sound)):
            if seconds and abs(seconds - stated) > slack:
                raise BadSampleError(f"its {name} lasts {seconds:.3f} s, by its record {stated:.3f} s")
    if sample.picture and sample.sound:
        if FRAMES in members and abs(sample.sound - sample.picture) > frame:
            raise BadSampleError(f"its sound lasts {sample.sound:.3f} s, its picture {sample.picture:.3f} s")
        with bad_sample():
            missing_at_end(sample.sound, 0.0, sample.picture, "its clip")


def record_of(caption: str, file: Any, start_s: Any, scores: Any) -> str:
    """Digest of what a sample and its line of clips.jsonl both say."""
    numbers = scores if isinstance(scores, dict) else {}
    return digest_of([caption, file, start_s, {k: v for k, v in numbers.items() if not isinstance(v, str)}])
