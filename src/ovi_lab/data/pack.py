"""A folder of real clips with captions -> WebDataset shards of one size, rate and length.

Every file is decoded, its picture scaled and cropped, its frames taken at the given rate, its sound mixed to
one channel and resampled; long files are cut into clips. Files that cannot be used are counted and named.

Shape suffixes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ovi_eval.clips.clip import MISSING_SECONDS, MISSING_SHARE, missing_at_end
from ovi_eval.clips.container import MAX_BYTES, MAX_UNFOLDING
from ovi_eval.clips.picture import PictureStream
from ovi_eval.clips.sound import SoundStream
from ovi_eval.clips.writing import write_mp4
from ovi_eval.common.files import folder_beside
from ovi_eval.common.folders import files_of
from ovi_eval.common.shown import shown
from ovi_lab.common.fields import Positive, checked
from ovi_lab.common.progress import progress
from ovi_lab.data.captions import Captions
from ovi_lab.data.cutting import CutSound, cut_picture
from ovi_lab.data.dataset import other_rate
from ovi_lab.data.decode import (
    VIDEO_EXTENSIONS,
    MediaClip,
    OnResample,
    array_members,
    fit_frame,
    json_bytes,
    refuse_other_rate,
)
from ovi_lab.data.index import BadSample, BadSampleError, bad_sample, index_path
from ovi_lab.data.shards import MAX_MEMBER, Members, numbered_shards, remove_shard, write_shards
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

Store = Literal["auto", "arrays", "mp4", "original"]
ARRAYS_UP_TO = 128 * 128  # pixels; larger clips are stored as H.264 by default
REPORTED_FROM = 0.05  # seconds of silence or of a tail that are reported
BAR_LEVEL = 24  # of 255: darker rows and columns at the edges, in every frame, are bars


@dataclass(frozen=True)
class PackOptions:
    """The common format of packed clips, and what is done with unusable files.

    Args:
        height, width: pixels. fps: frames a second. sample_rate: Hz.
        seconds: clips of that length, as many as a file holds; None: each file is one clip of its own length.
        store: "arrays" lossless, "mp4" H.264 and AAC, "original" the file's own bytes, "auto" arrays for
            small frames.
        crop_bars: black bars are cut off first.
        on_error: "skip" files that cannot be used, counted and named, or "raise" at the first.
    """

    height: int = 64
    width: int = 64
    fps: float = 16.0
    sample_rate: int = 8000
    seconds: float | None = None
    clips_per_shard: int = 256
    store: Store = "auto"
    crop_bars: bool = False
    on_error: Literal["skip", "raise"] = "skip"
    on_resample: OnResample = "resample"

    def __post_init__(self) -> None:
        for name in ("height", "width", "fps", "sample_rate", "clips_per_shard"):
            checked(Positive, getattr(self, name), name)
        if self.seconds is not None and round(self.seconds * self.fps) < 1:
            raise UserError(f"{self.seconds} s at {self.fps} frames/s is no frame; clips need at least one")
        if self.store == "original" and (self.seconds is not None or self.crop_bars):
            raise UserError("--store original keeps files as they are: leave out --seconds and --crop-bars")
        frames = 1 if self.seconds is None else round(self.seconds * self.fps)
        if frames * self.height * self.width * 3 > MAX_MEMBER:
            raise UserError(
                f"{frames} frames of {self.height}x{self.width} are more than the {MAX_MEMBER / 2**30:.1f} GiB of one "
                "clip; ask for smaller or shorter clips"
            )

    @property
    def arrays(self) -> bool:
        small = self.height * self.width <= ARRAYS_UP_TO
        return self.store == "arrays" or (self.store == "auto" and small)


@dataclass
class PackReport:
    """The result of packing a folder.

    `tails`, `padded` and `lost_sound`: by file, seconds left out after the last whole clip, of silence where its sound
    has not begun or has ended, and of silence in place of lost packets. `retimed` and `resampled`: files by the rates
    they had. `replaced`: shards that existed. `ignored`: what else the folder and the captions hold, in words.
    """

    files: int = 0
    clips: int = 0
    shards: list[Path] = field(default_factory=list)
    skipped: list[BadSample] = field(default_factory=list)
    resampled: Counter[int] = field(default_factory=Counter)
    retimed: Counter[float] = field(default_factory=Counter)
    tails: dict[str, float] = field(default_factory=dict)
    padded: dict[str, float] = field(default_factory=dict)
    lost_sound: dict[str, float] = field(default_factory=dict)
    replaced: list[Path] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def pack_folder(
    folder: Path,
    prefix: Path,
    options: PackOptions,
    captions: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> PackReport:
    """Pack every video file under `folder` into `<prefix>-000.tar`, …: all of them or, where it fails, none.

    Raises:
        UserError: no folder, no video in it, no usable one, shards of that name already there, or, with
            on_error="raise", the first file that cannot be used.
    """
    if not folder.is_dir():
        name = shown(folder)
        state = f"{name} is a file and no folder" if folder.is_file() else f"the folder {name} does not exist"
        raise UserError(f"{state}; name a folder of .{', .'.join(VIDEO_EXTENSIONS)} files")
    if next((place for place in prefix.parents if place.exists()), prefix.parent).is_file():
        raise UserError(f"shards cannot be written to {shown(prefix)}: {shown(prefix.parent)} is a file")
    found = files_of(folder, [f".{extension}" for extension in VIDEO_EXTENSIONS])
    files = list(found.files)
    if not files and not found.unusable:
        raise UserError(f"no .{', .'.join(VIDEO_EXTENSIONS)} file is in {shown(folder)}")
    if prefix.is_dir() or str(prefix).endswith("/"):
        prefix = prefix / "clips"
    there = numbered_shards(prefix)
    if there and not overwrite:
        raise UserError(f"{shown(there[0])} is already there; pass --overwrite, or name other shards")
    packing = _Packing(folder, options, Captions(folder, captions), quiet)
    report = packing.report
    report.files = len(files) + len(found.unusable)
    for lost in found.unusable:
        packing.skip(lost.path, lost.reason)
    with folder_beside(prefix) as temporary:
        made = write_shards(temporary / prefix.name, packing.samples(files), options.clips_per_shard)
        if not made:
            raise UserError(
                f"none of {report.files} files in {shown(folder)} can be used; {report.skipped[0]}"
            )
        report.shards = [_moved(shard, prefix.parent) for shard in made]
    for stale in set(there) - set(report.shards):
        remove_shard(stale)
    report.replaced = there
    ignored = (found.summary(packing.captions.files()), packing.captions.summary())
    report.ignored = list(filter(None, ignored))
    return report


def _moved(shard: Path, folder: Path) -> Path:
    """The shard with its index in another folder of the same disk, in place of one that is there."""
    to = folder / shard.name
    remove_shard(to)
    index_path(shard).replace(index_path(to))
    return shard.replace(to)


class _Packing:
    """Files of a folder as samples, with a report of what was done to them."""

    def __init__(self, folder: Path, options: PackOptions, captions: Captions, quiet: bool) -> None:
        self.folder, self.options, self.captions, self.quiet = folder, options, captions, quiet
        self.report = PackReport()

    def skip(self, name: str, reason: str) -> None:
        """Reports a file that cannot be used. Raises UserError where `on_error` is "raise"."""
        if self.options.on_error == "raise":
            raise UserError(f"{shown(name)}: {shown(reason, 400)}")
        self.report.skipped.append(BadSample(self.folder.name, name, reason))

    def samples(self, files: list[Path]) -> Iterator[tuple[str, Members]]:
        """(key, members) of every clip, counted in the report."""
        options, original = self.options, self.options.store == "original"
        keys: set[str] = set()
        for file in progress(iter(files), "packing", len(files), not self.quiet):
            name = file.relative_to(self.folder).as_posix()
            packed = 0
            left_out: list[BadSampleError] = []
            try:
                caption = self.captions.of(file)
                if not caption:
                    raise BadSampleError("it has no caption")
                clips = self._original(file, name) if original else self._clips(file, name)
                for number, clip in enumerate(clips):
                    if isinstance(clip, BadSampleError):
                        if options.on_error == "raise":
                            raise clip
                        left_out.append(clip)
                        continue
                    key = sample_key(name, number if options.seconds is not None else None, keys)
                    about = {"file": name, **clip.meta}
                    members: Members
                    if original:
                        extension = file.suffix.lower().lstrip(".")
                        members = {"json": json_bytes({"caption": caption, "meta": about}), extension: file}
                    else:
                        members = _members(caption, about, clip, options)
                    yield key, members
                    packed += 1
                    self.report.clips += 1
            except BadSampleError as error:
                after = f" (after {packed} clips of it, which are packed)" if packed else ""
                self.skip(name, f"{error}{after}")
            if left_out:
                more = f"{len(left_out)} clips are left out, the first: " if len(left_out) > 1 else ""
                self.skip(name, f"{more}{left_out[0]}")

    def _original(self, file: Path, name: str) -> Iterator[MediaClip | BadSampleError]:
        """Decodes a file once to find its faults; the frames are discarded."""
        if file.stat().st_size > MAX_MEMBER:
            raise BadSampleError(f"it has {file.stat().st_size} bytes; originals have at most {MAX_MEMBER}")
        with _opened(file, lambda frame_HWC: frame_HWC[:1, :1].clone()) as (picture, sound):
            for _, frame in picture:
                frames_THWC = frame[None]
            samples = sum(block_S.shape[-1] for block_S in sound)
            ends = sound.start + samples / sound.sample_rate
            seconds = picture.end - picture.start
            missing = missing_at_end(ends, picture.start, seconds, "its sound")
            _count(self.report.padded, name, max(0.0, sound.start - picture.start) + missing)
            _count(self.report.lost_sound, name, sound.filled)
            rate = sound.sample_rate
            meta = {"source_fps": picture.fps, "source_rate": rate}
            yield MediaClip("", frames_THWC, picture.fps, torch.zeros(0), rate, rate, meta)

    def _clips(self, file: Path, name: str) -> Iterator[MediaClip | BadSampleError]:
        """A file's clips in order and in the common format, or why one is left out; one clip is held at a time.

        Raises BadSampleError where it holds none, or cannot be decoded further.
        """
        options, report = self.options, self.report
        box = _without_bars(file) if options.crop_bars else (slice(None), slice(None))
        with _opened(file, lambda frame: fit_frame(frame[box], options.height, options.width)) as streams:
            picture, sound = streams
            source_rate = sound.sample_rate
            if source_rate != options.sample_rate:
                refuse_other_rate(source_rate, options.sample_rate, options.on_resample)
                report.resampled[source_rate] += 1
            _check_unfolding(file, picture, options)
            cut_sound = CutSound(sound, options.sample_rate, picture.start)
            per_clip = None if options.seconds is None else round(options.seconds * options.fps)
            number = 0
            for frames_THWC in cut_picture(picture, options.fps, per_clip):
                seconds = len(frames_THWC) / options.fps
                start_s = number * seconds
                samples = round(seconds * options.sample_rate)
                wave_S, before, after = cut_sound.window(round(start_s * options.sample_rate), samples)
                missing = after / options.sample_rate
                number += 1
                if before + after == samples or missing > max(MISSING_SECONDS, MISSING_SHARE * seconds):
                    missing += before / options.sample_rate
                    at = f"the clip at {start_s:.2f} s is left out: " if per_clip is not None else ""
                    yield BadSampleError(f"{at}its sound is missing for {missing:.2f} s of {seconds:.2f} s")
                    continue
                _count(report.padded, name, (before + after) / options.sample_rate)
                meta = {
                    "start_s": start_s,
                    "source_fps": picture.fps,
                    "source_rate": source_rate,
                    "source_size": list(picture.size),
                }
                yield MediaClip("", frames_THWC, options.fps, wave_S, options.sample_rate, source_rate, meta)
            if other_rate(picture.fps, options.fps):
                report.retimed[round(picture.fps, 2)] += 1
            if per_clip is not None:
                _count(report.tails, name, picture.end - picture.start - number * per_clip / options.fps)
            _count(report.lost_sound, name, sound.filled)


@contextmanager
def _opened(file: Path, transform: Callable[[Tensor], Tensor]) -> Iterator[tuple[PictureStream, SoundStream]]:
    """A file's picture and sound; what cannot be decoded is a BadSampleError."""
    with (
        bad_sample(),
        PictureStream(file, name="its picture", transform=transform) as picture,
        SoundStream(file, name="its sound") as sound,
    ):
        yield picture, sound


def _check_unfolding(file: Path, picture: PictureStream, options: PackOptions) -> None:
    """Refuses a small file whose few frames are seen for hours, before it fills the disk."""
    size = file.stat().st_size
    unfolded = picture.spans * options.fps * options.height * options.width * 3
    if unfolded > MAX_BYTES and unfolded > size * MAX_UNFOLDING:
        raise BadSampleError(
            f"it has {size / 1000:.0f} kB and its {picture.spans / 3600:.1f} hours would unfold to "
            f"{unfolded / 1e9:.0f} GB of frames"
        )


def _count(seconds_by_file: dict[str, float], name: str, seconds: float) -> None:
    if seconds >= REPORTED_FROM:
        seconds_by_file[name] = seconds_by_file.get(name, 0.0) + seconds


def _without_bars(file: Path) -> tuple[slice, slice]:
    """Rows and columns of what is ever lighter than a bar; all of them where nothing is."""
    lightest_HW = torch.zeros((), dtype=torch.uint8)
    with (
        bad_sample(),
        PictureStream(file, name="its picture", transform=lambda frame_HWC: frame_HWC.amax(-1)) as picture,
    ):
        for _, light_HW in picture:
            lightest_HW = torch.maximum(light_HW, lightest_HW)
    lit_HW = (lightest_HW > BAR_LEVEL).float()
    # A few bright pixels in a bar are noise of the encoder; a row of the picture has many.
    rows, columns = ((lit_HW.mean(axis) > 0.02).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows or not columns:
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _members(caption: str, meta: dict[str, Any], clip: MediaClip, options: PackOptions) -> Members:
    if options.arrays:
        return array_members(caption, meta, clip.frames_THWC, clip.fps, clip.wave_S, clip.sample_rate)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, clip.frames_THWC, clip.fps, clip.wave_S, clip.sample_rate, enlarge_to=0)
        return {"json": json_bytes({"caption": caption, "meta": meta}), "mp4": path.read_bytes()}


def sample_key(name: str, number: int | None, taken: set[str]) -> str:
    """A sample's key from its file's name: no dots, and used once."""
    stem = re.sub(r"[^A-Za-z0-9_/-]", "_", name.rpartition(".")[0])
    base = stem if number is None else f"{stem}-{number:03d}"
    key, again = base, 2
    while key in taken:
        key, again = f"{base}_{again}", again + 1
    taken.add(key)
    return key
