"""Clips of the report as small files: kept ones from their shard, others cut from their source where it still is.

Shapes: T frames, H rows, W columns, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovi_eval.clips.clip import fit_length
from ovi_eval.clips.container import guarded, opened, picture_stream, sound_stream
from ovi_eval.clips.frame import Upright
from ovi_eval.clips.writing import write_mp4
from ovi_eval.errors import UserError
from ovi_eval.report.html.clip_store import ClipStore, PageClip
from ovi_lab.data.build.folder import BuiltFolder
from ovi_lab.data.build.items import wav_bytes
from ovi_lab.data.build.report.facts import ClipFacts
from ovi_lab.data.index import BadSampleError, SampleEntry, no_space, read_index
from ovi_lab.data.shards import ShardReader
from ovi_lab.data.stores import RemoteShard, below, fetch

SIDE, SECONDS, FPS, RATE = 256, 5.0, 12, 32_000
_GONE = "its source is not where it was"


class Previews:
    """Makes clips small, and puts those that fit into the page.

    Args:
        folder: the build.
        videos: where the sources are; None: kept clips alone can be shown. One of a store is copied while it is cut.
        work: for the small files until the page is written.
        budget: characters of base64 text.
    """

    def __init__(
        self, folder: BuiltFolder, videos: Path | RemoteShard | None, work: Path, budget: int
    ) -> None:
        self.folder, self.videos, self.work = folder, videos, work
        self.store = ClipStore(budget)
        self.left_out = 0
        self._reader = ShardReader()
        self._entries: dict[str, dict[str, SampleEntry]] = {}
        self._shown: dict[str, PageClip | str] = {}

    def show(self, clips: Sequence[ClipFacts]) -> None:
        """Adds clips to the page while there is room."""
        for clip in clips:
            if clip.key not in self._shown:
                self._shown[clip.key] = self._added(clip)

    def of(self, clip: ClipFacts) -> PageClip | str:
        """The clip on the page, or why it is not there."""
        return self._shown.get(clip.key, "the page is full")

    def _added(self, clip: ClipFacts) -> PageClip | str:
        if self.store.used >= self.store.budget:
            self.left_out += 1
            return "the page is full"
        try:
            file = self._file(clip)
        except (UserError, BadSampleError, OSError, KeyError) as error:
            return str(error)
        (read,) = self.store.read([file])
        file.unlink()
        if not isinstance(read, str) and self.store.used + self.store.cost(read) > self.store.budget:
            self.left_out += 1
            return "the page is full"
        self.store.add(read)
        return read

    def _file(self, clip: ClipFacts) -> Path:
        """The clip in a file of its own."""
        place = self.work / f"{len(self._shown):05d}"
        if clip.kept and clip.shard is not None:
            if clip.shard not in self._entries:
                if clip.shard not in self.folder.files:
                    raise UserError("its shard is gone")
                index = read_index(self.folder.files[clip.shard])
                self._entries[clip.shard] = {entry.key: entry for entry in index.entries}
            members = self._reader.read(self._entries[clip.shard][clip.key])
            kind = "mp4" if "mp4" in members else "wav"
            file = place.with_suffix(f".{kind}")
            file.write_bytes(members[kind])
            return file
        name = PurePosixPath(clip.source)
        if self.videos is None or ".." in name.parts or name.is_absolute():
            raise UserError(_GONE)
        seconds = min(clip.seconds, SECONDS)
        if isinstance(self.videos, Path):
            if not (self.videos / name).is_file():
                raise UserError(_GONE)
            return cut(self.videos / name, clip.start_s, seconds, place)
        copy = self.work / f"source{name.suffix}"
        try:
            with no_space(copy):
                fetch(below(self.videos, clip.source), copy)
            return cut(copy, clip.start_s, seconds, place)
        except FileNotFoundError as error:
            raise UserError(_GONE) from error
        finally:
            copy.unlink(missing_ok=True)


def cut(source: Path, start_s: float, seconds: float, place: Path) -> Path:
    """A part of a file, small, as an mp4, or a wav where it has no picture.

    The file is read from the key frame before it on. Raises UserError where it cannot be decoded there.
    """
    with opened(source, source.name) as (container, _):
        cover = av.stream.Disposition.attached_pic
        seen = any(not stream.disposition & cover for stream in container.streams.video)
        heard = bool(container.streams.audio)
    frames_THWC, first = _frames(source, start_s, seconds) if seen else (None, None)
    wave_S = _wave(source, start_s, seconds, first) if heard else None
    if frames_THWC is not None:
        return write_mp4(place.with_suffix(".mp4"), frames_THWC, FPS, wave_S, RATE, enlarge_to=0)
    file = place.with_suffix(".wav")
    file.write_bytes(wav_bytes(torch.zeros(1) if wave_S is None else wave_S, RATE))
    return file


def _frames(source: Path, start_s: float, seconds: float) -> tuple[Tensor, float]:
    """Frames [T, H, W, 3] seen at FPS from `start_s` after the first one, and that one's time."""
    with opened(source, source.name) as (container, shown), guarded(shown):
        stream = picture_stream(container, shown)
        upright = Upright(shown)
        first = next((frame.time or 0.0 for frame in container.decode(stream)), None)
        if first is None:
            raise UserError(f"{shown}: its picture stream holds no frame")
        begin = first + start_s
        container.seek(int(begin / stream.time_base), stream=stream)
        kept: list[Tensor] = []
        last = torch.zeros(0)
        for frame in container.decode(stream):
            time = frame.time or 0.0
            while len(last) and len(kept) / FPS < min(time - begin, seconds) - 1e-3:
                kept.append(last)
            if time >= begin + seconds or len(kept) >= seconds * FPS:
                break
            last = _shrunk(upright(frame, stream.sample_aspect_ratio))
        kept += [last] * bool(len(last) and not kept)
        if not kept:
            raise UserError(f"{shown}: has no picture {start_s:.1f} s after its beginning")
        return torch.stack(kept), first


def _shrunk(frame_HWC: Tensor) -> Tensor:
    picture = Image.fromarray(frame_HWC.numpy())
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.array(picture))


def _wave(source: Path, start_s: float, seconds: float, first: float | None) -> Tensor:
    """The sound [S] in one channel at RATE from `start_s` after the time `first` (None: its own beginning)."""
    samples = round(seconds * RATE)
    with opened(source, source.name) as (container, shown), guarded(shown):
        stream = sound_stream(container, shown)
        if first is None:
            first = next((frame.time or 0.0 for frame in container.decode(stream)), 0.0)
        begin = first + start_s
        container.seek(max(0, int((begin - 0.1) / stream.time_base)), stream=stream)
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
        wave_S = torch.zeros(samples)
        for frame in container.decode(stream):
            time = frame.time or 0.0
            if time >= begin + seconds:
                break
            frame.pts = None
            parts = [torch.from_numpy(out.to_ndarray()[0]) for out in resampler.resample(frame)]
            part = torch.cat(parts) if parts else torch.zeros(0)
            at = round((time - begin) * RATE)
            part, at = (part[-at:], 0) if at < 0 else (part, at)
            part = part[: max(0, samples - at)]
            wave_S[at : at + len(part)] = part
        return fit_length(wave_S, samples).clamp(-1, 1)
