"""A folder of real clips with captions -> WebDataset shards of one size, rate and length.

Every file is decoded, its picture scaled and cropped, its frames taken at the wanted rate, its sound mixed to
one channel and resampled; long files are cut into clips. Files that cannot be used are counted and named.

Shape suffixes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ovi_eval.errors import EvalError
from ovi_eval.media import Audio, Video, decode_audio, decode_video, fit_length, resample, write_mp4
from ovi_lab.data.captions import Captions
from ovi_lab.data.index import BadSample, BadSampleError
from ovi_lab.data.progress import progress
from ovi_lab.data.samples import (
    VIDEO_EXTENSIONS,
    MediaClip,
    MediaFormat,
    OnResample,
    array_members,
    fit_frame,
    json_bytes,
    refuse_other_rate,
    retime,
)
from ovi_lab.data.shards import write_shards
from ovi_lab.errors import UserError

log = logging.getLogger("ovi_lab.data")

Store = Literal["auto", "arrays", "mp4", "original"]
ARRAYS_UP_TO = 128 * 128  # pixels; larger clips are stored as H.264 unless asked otherwise
BAR_LEVEL = 24  # of 255: darker rows and columns at the edges, in every frame, are bars


@dataclass(frozen=True)
class PackOptions:
    """How clips are brought into one form.

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
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.seconds is not None and round(self.seconds * self.fps) < 1:
            raise UserError(f"{self.seconds} s at {self.fps} frames/s is no frame; clips need at least one")
        if self.store == "original" and (self.seconds is not None or self.crop_bars):
            raise UserError("--store original keeps files as they are: leave out --seconds and --crop-bars")

    @property
    def arrays(self) -> bool:
        small = self.height * self.width <= ARRAYS_UP_TO
        return self.store == "arrays" or (self.store == "auto" and small)


@dataclass
class PackReport:
    """What became of a folder."""

    files: int = 0
    clips: int = 0
    shards: list[Path] = field(default_factory=list)
    skipped: list[BadSample] = field(default_factory=list)
    resampled: Counter[int] = field(default_factory=Counter)


def pack_folder(
    folder: Path,
    prefix: Path,
    options: PackOptions,
    captions: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> PackReport:
    """Pack every video file under `folder` into `<prefix>-000.tar`, ….

    Raises:
        UserError: no folder, no video in it, no usable one, shards of that name already there, or, where
            asked to stop, the first file that cannot be used.
    """
    if not folder.is_dir():
        raise UserError(
            f"the folder {folder} does not exist; name a folder of .{', .'.join(VIDEO_EXTENSIONS)} files"
        )
    files = sorted(
        f for f in folder.rglob("*") if f.suffix.lower().lstrip(".") in VIDEO_EXTENSIONS and f.is_file()
    )
    if not files:
        raise UserError(f"no .{', .'.join(VIDEO_EXTENSIONS)} file is in {folder}")
    if prefix.is_dir() or str(prefix).endswith("/"):
        prefix = prefix / "clips"
    there = sorted(f for f in prefix.parent.glob(f"{prefix.name}-*.tar")) if prefix.parent.is_dir() else []
    if there and not overwrite:
        raise UserError(f"{there[0]} is already there; pass --overwrite, or name other shards")
    looked_up = Captions(folder, captions)
    report = PackReport(files=len(files))
    samples = _samples(files, folder, looked_up, options, report, quiet)
    report.shards = write_shards(prefix, samples, options.clips_per_shard)
    if not report.shards:
        raise UserError(f"none of {len(files)} files in {folder} can be used; {report.skipped[0]}")
    for stale in set(there) - set(report.shards):
        stale.unlink()
        stale.with_name(stale.name.removesuffix(".tar") + ".index.json").unlink(missing_ok=True)
    return report


def _samples(
    files: list[Path], folder: Path, captions: Captions, options: PackOptions, report: PackReport, quiet: bool
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, members) of every clip, counted in the report."""
    keys: set[str] = set()
    for file in progress(iter(files), "packing", len(files), not quiet):
        name = file.relative_to(folder).as_posix()
        try:
            caption = captions.of(file)
            if not caption:
                raise BadSampleError("it has no caption")
            clips = _original(file) if options.store == "original" else _clips(file, options, report)
            for number, clip in enumerate(clips):
                key = sample_key(name, number if options.seconds is not None else None, keys)
                about = {"file": name, **clip.meta}
                if options.store == "original":
                    extension = file.suffix.lower().lstrip(".")
                    members = {
                        "json": json_bytes({"caption": caption, "meta": about}),
                        extension: file.read_bytes(),
                    }
                else:
                    members = _members(caption, about, clip, options)
                yield key, members
                report.clips += 1
        except BadSampleError as error:
            if options.on_error == "raise":
                raise UserError(f"{name}: {error}") from error
            report.skipped.append(BadSample(folder.name, name, str(error)))


def _original(file: Path) -> Iterator[MediaClip]:
    """Decoded once, to know that it can be; the frames are not kept."""
    picture, sound = _decoded(file, lambda frame_HWC: frame_HWC[:1, :1])
    meta = {"source_fps": picture.fps, "source_rate": sound.sample_rate}
    yield MediaClip(
        "", picture.frames_THWC[:1], picture.fps, sound.wave_S, sound.sample_rate, sound.sample_rate, meta
    )


def _clips(file: Path, options: PackOptions, report: PackReport) -> Iterator[MediaClip]:
    """A file's clips in order, in the wanted format. Raises BadSampleError where it holds none."""
    box = _without_bars(file) if options.crop_bars else None
    source: dict[str, Any] = {}

    def fit(frame_HWC: Tensor) -> Tensor:
        source["source_size"] = list(frame_HWC.shape[:2])
        if box is not None:
            frame_HWC = frame_HWC[box[0] : box[1], box[2] : box[3]]
        return fit_frame(frame_HWC, options.height, options.width)

    picture, sound = _decoded(file, fit)
    if sound.sample_rate != options.sample_rate:
        refuse_other_rate(sound.sample_rate, options.sample_rate, options.on_resample)
        report.resampled[sound.sample_rate] += 1
    wave_S = resample(sound.wave_S, sound.sample_rate, options.sample_rate)
    times_T = picture.times_T - picture.times_T[0]
    late = round((sound.start - float(picture.times_T[0])) * options.sample_rate)
    wave_S = wave_S[-late:] if late < 0 else torch.nn.functional.pad(wave_S, (late, 0))
    lasts = float(times_T[-1]) + 1 / picture.fps

    per_clip = round((options.seconds if options.seconds is not None else lasts) * options.fps)
    wanted = MediaFormat(per_clip, options.height, options.width, options.fps, options.sample_rate)
    count = max(1, int((lasts + 0.5 / options.fps) / wanted.seconds)) if options.seconds is not None else 1
    whole = MediaFormat(count * per_clip, options.height, options.width, options.fps, options.sample_rate)
    frames_THWC = retime(picture.frames_THWC, times_T, picture.fps, whole)
    for number in range(count):
        start_s = number * wanted.seconds
        first = round(start_s * options.sample_rate)
        yield MediaClip(
            caption="",
            frames_THWC=frames_THWC[number * per_clip : (number + 1) * per_clip],
            fps=options.fps,
            wave_S=fit_length(wave_S[first : first + wanted.num_samples], wanted.num_samples),
            sample_rate=options.sample_rate,
            source_rate=sound.sample_rate,
            meta={
                "start_s": start_s,
                "source_fps": picture.fps,
                "source_rate": sound.sample_rate,
                **source,
            },
        )


def _decoded(file: Path, fit: Callable[[Tensor], Tensor]) -> tuple[Video, Audio]:
    try:
        return decode_video(file, name="its picture", transform=fit), decode_audio(file, name="its sound")
    except EvalError as error:
        raise BadSampleError(str(error)) from error


def _without_bars(file: Path) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right of what is ever lighter than a bar; None where nothing is."""
    lightest: list[Tensor] = []

    def look(frame_HWC: Tensor) -> Tensor:
        light_HW = frame_HWC.amax(-1)
        lightest[:] = [torch.maximum(lightest[0], light_HW) if lightest else light_HW]
        return frame_HWC[:1, :1]

    try:
        decode_video(file, name="its picture", transform=look)
    except EvalError as error:
        raise BadSampleError(str(error)) from error
    lit_HW = lightest[0] > BAR_LEVEL
    # A few bright pixels in a bar are noise of the encoder; a row of the picture has many.
    rows = (lit_HW.float().mean(1) > 0.02).nonzero().flatten()
    columns = (lit_HW.float().mean(0) > 0.02).nonzero().flatten()
    if not len(rows) or not len(columns):
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _members(caption: str, meta: dict[str, Any], clip: MediaClip, options: PackOptions) -> dict[str, bytes]:
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
