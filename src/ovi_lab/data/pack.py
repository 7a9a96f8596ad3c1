"""A folder of real clips with captions -> WebDataset shards of one size, rate and length.

Every file is decoded, its picture scaled and cropped, its frames taken at the given rate, its sound mixed to
one channel and resampled; long files are cut into clips. Of either modality alone the other is not looked for, and a
picture may be a still. Files that cannot be used are counted and named.

Shape suffixes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

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
from ovi_lab.common.progress import progress
from ovi_lab.data.captions import Captions
from ovi_lab.data.cutting import CutSound, cut_picture
from ovi_lab.data.dataset import other_rate
from ovi_lab.data.decode import MediaClip, array_members, fit_frame, json_bytes, refuse_other_rate
from ovi_lab.data.index import BadSample, BadSampleError, bad_sample, index_path
from ovi_lab.data.kinds import IMAGE_EXTENSIONS, SILENT
from ovi_lab.data.pack_options import PackOptions, PackReport, count_seconds
from ovi_lab.data.pack_parts import sounds_of, still_of
from ovi_lab.data.shards import MAX_MEMBER, Members, numbered_shards, remove_shard, write_shards
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

BAR_LEVEL = 24  # of 255: darker rows and columns at the edges, in every frame, are bars


def pack_folder(
    folder: Path,
    prefix: Path,
    options: PackOptions,
    captions: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> PackReport:
    """Pack every file of the kinds that `options` takes under `folder` into `<prefix>-000.tar`, …: all of them or,
    where it fails, none.

    Raises:
        UserError: no folder, no such file in it, no usable one, shards of that name already there, or, with
            on_error="raise", the first file that cannot be used.
    """
    if not folder.is_dir():
        name = shown(folder)
        state = f"{name} is a file and no folder" if folder.is_file() else f"the folder {name} does not exist"
        raise UserError(f"{state}; name a folder of .{', .'.join(options.extensions)} files")
    if next((place for place in prefix.parents if place.exists()), prefix.parent).is_file():
        raise UserError(f"shards cannot be written to {shown(prefix)}: {shown(prefix.parent)} is a file")
    found = files_of(folder, [f".{extension}" for extension in options.extensions])
    files = list(found.files)
    if not files and not found.unusable:
        raise UserError(f"no .{', .'.join(options.extensions)} file is in {shown(folder)}")
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
                clips = self._clips_of(file, name)
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

    def _clips_of(self, file: Path, name: str) -> Iterator[MediaClip | BadSampleError]:
        """The clips of a file, one by one."""
        if not self.options.has("video"):
            return sounds_of(file, name, self.options, self.report)
        if self.options.store == "original":
            return self._original(file, name)
        if file.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS:
            return still_of(file, self.options)
        return self._clips(file, name)

    def _original(self, file: Path, name: str) -> Iterator[MediaClip | BadSampleError]:
        """Decodes a file once to find its faults; the frames are discarded."""
        if file.stat().st_size > MAX_MEMBER:
            raise BadSampleError(f"it has {file.stat().st_size} bytes; originals have at most {MAX_MEMBER}")
        with _opened(file, lambda frame_HWC: frame_HWC[:1, :1].clone()) as (picture, sound):
            assert sound is not None
            for _, frame in picture:
                frames_THWC = frame[None]
            samples = sum(block_S.shape[-1] for block_S in sound)
            ends = sound.start + samples / sound.sample_rate
            seconds = picture.end - picture.start
            missing = missing_at_end(ends, picture.start, seconds, "its sound")
            count_seconds(self.report.padded, name, max(0.0, sound.start - picture.start) + missing)
            count_seconds(self.report.lost_sound, name, sound.filled)
            rate = sound.sample_rate
            meta = {"source_fps": picture.fps, "source_rate": rate}
            yield MediaClip("", frames_THWC, picture.fps, torch.zeros(0), rate, rate, meta)

    def _clips(self, file: Path, name: str) -> Iterator[MediaClip | BadSampleError]:
        """A file's clips in order and in the common format, or why one is left out; one clip is held at a time.

        Raises BadSampleError where it holds none, or cannot be decoded further.
        """
        options, report = self.options, self.report
        box = _without_bars(file) if options.crop_bars else (slice(None), slice(None))

        def fit(frame_HWC: Tensor) -> Tensor:
            return fit_frame(frame_HWC[box], options.height, options.width)

        with _opened(file, fit, options.has("audio")) as (picture, sound):
            if sound is not None and sound.sample_rate != options.sample_rate:
                refuse_other_rate(sound.sample_rate, options.sample_rate, options.on_resample)
                report.resampled[sound.sample_rate] += 1
            _check_unfolding(file, picture, options)
            cut_sound = None if sound is None else CutSound(sound, options.sample_rate, picture.start)
            per_clip = None if options.seconds is None else round(options.seconds * options.fps)
            number = 0
            for frames_THWC in cut_picture(picture, options.fps, per_clip):
                seconds = len(frames_THWC) / options.fps
                meta: dict[str, Any] = {"start_s": number * seconds, "source_fps": picture.fps}
                wave_S, rate, source_rate = torch.zeros(0), 0, 0
                number += 1
                if sound is not None and cut_sound is not None:
                    rate, source_rate = options.sample_rate, sound.sample_rate
                    samples = round(seconds * rate)
                    wave_S, before, after = cut_sound.window(round(meta["start_s"] * rate), samples)
                    missing = after / rate
                    if before + after == samples or missing > max(MISSING_SECONDS, MISSING_SHARE * seconds):
                        missing += before / rate
                        at = (
                            f"the clip at {meta['start_s']:.2f} s is left out: "
                            if per_clip is not None
                            else ""
                        )
                        yield BadSampleError(
                            f"{at}its sound is missing for {missing:.2f} s of {seconds:.2f} s"
                        )
                        continue
                    count_seconds(report.padded, name, (before + after) / rate)
                    meta["source_rate"] = source_rate
                meta["source_size"] = list(picture.size)
                yield MediaClip("", frames_THWC, options.fps, wave_S, rate, source_rate, meta)
            if other_rate(picture.fps, options.fps):
                report.retimed[round(picture.fps, 2)] += 1
            if per_clip is not None:
                count_seconds(
                    report.tails, name, picture.end - picture.start - number * per_clip / options.fps
                )
            if sound is not None:
                count_seconds(report.lost_sound, name, sound.filled)


@contextmanager
def _opened(
    file: Path, transform: Callable[[Tensor], Tensor], heard: bool = True
) -> Iterator[tuple[PictureStream, SoundStream | None]]:
    """A file's picture and, where it is `heard`, its sound; what cannot be decoded is a BadSampleError."""
    with (
        bad_sample(),
        PictureStream(file, name="its picture", transform=transform) as picture,
        SoundStream(file, name="its sound") if heard else nullcontext() as sound,
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


def _without_bars(file: Path) -> tuple[slice, slice]:
    """Rows and columns of what is ever lighter than a bar; all of them where nothing is."""
    lightest_HW = torch.zeros((), dtype=torch.uint8)
    with (
        bad_sample(),
        PictureStream(file, name="its picture", transform=lambda frame_HWC: frame_HWC.amax(-1)) as picture,
    ):
        for _, light_HW in picture:
            lightest_HW = torch.maximum(light_HW, lightest_HW)
    return within_bars(lightest_HW)


def within_bars(lightest_HW: Tensor) -> tuple[slice, slice]:
    """Rows and columns within black bars, of the lightest value [H, W] of each pixel over all frames."""
    lit_HW = (lightest_HW > BAR_LEVEL).float()
    # A few bright pixels in a bar are noise of the encoder; a row of the picture has many.
    rows, columns = ((lit_HW.mean(axis) > 0.02).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows or not columns:
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _members(caption: str, meta: dict[str, Any], clip: MediaClip, options: PackOptions) -> Members:
    if options.arrays or not clip.has_video:
        frames = clip.frames_THWC if clip.has_video else None
        wave = clip.wave_S if clip.has_audio else None
        return array_members(caption, meta, frames, clip.fps, wave, clip.sample_rate)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        wave = clip.wave_S if clip.has_audio else None
        write_mp4(path, clip.frames_THWC, clip.fps, wave, clip.sample_rate, enlarge_to=0)
        member = "mp4" if clip.has_audio else SILENT
        return {"json": json_bytes({"caption": caption, "meta": meta}), member: path.read_bytes()}


def sample_key(name: str, number: int | None, taken: set[str]) -> str:
    """A sample's key from its file's name: no dots, and used once."""
    stem = re.sub(r"[^A-Za-z0-9_/-]", "_", name.rpartition(".")[0])
    base = stem if number is None else f"{stem}-{number:03d}"
    key, again = base, 2
    while key in taken:
        key, again = f"{base}_{again}", again + 1
    taken.add(key)
    return key
