"""Items, the clips to score: each is decoded when it is used, at any size, rate and length.

A clip's id is its file's path below the folder, without the suffix. Where a picture and a sound file share
an id, they are one clip: the sound file is used only if the other has no sound of its own.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ovi_eval.clips.captions import IN_FOLDER, clip_id, few, nfc, read_captions
from ovi_eval.clips.clipset import FAILED, ClipSet
from ovi_eval.clips.container import opened
from ovi_eval.clips.picture import Video, decode_video
from ovi_eval.clips.sound import Audio, decode_audio, decode_pcm16
from ovi_eval.clips.writing import resample
from ovi_eval.common.files import file_sha256
from ovi_eval.common.folders import files_of
from ovi_eval.common.shown import shown
from ovi_eval.common.unicode_text import unusable
from ovi_eval.errors import UserError

T = TypeVar("T")
PICTURES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
FAULT = "cannot be measured"
"""Start of the reason of a clip on which a metric, or a library that it uses, failed unexpectedly."""


class Item(ABC):
    """One clip to score. Decoded frames and sound are cached until `release`, so that several metrics share them.

    `name` is its name in errors; `failed` is the reason why it cannot be scored, given by its generator.
    """

    def __init__(self, id: str, caption: str, failed: str | None, path: Path | None = None) -> None:
        self.id, self.caption, self.path, self.failed = id, caption, path, failed
        self.name = id if path is None else path.name
        self._video: Video | None = None
        self._audio: dict[tuple[int | None, bool], Audio] = {}
        self._content: str | None = None
        self._results: dict[str, Any] = {}

    def content(self) -> str:
        """sha256 of the clip's content, 64 hexadecimal digits. Raises UserError for an unreadable file."""
        if self._content is None:
            self._content = self._digest()
        return self._content

    def video(self) -> Video:
        """All frames. Raises UserError naming the clip where there are none or they cannot be decoded."""
        if self._video is None:
            self._video = self._decode_video()
        return self._video

    def frames_through(self, look: Callable[[Tensor], Tensor]) -> Video:
        """What `look` makes of each frame [H, W, 3] uint8, stacked as the frames of a Video.

        Of a file only what `look` returns is kept, unless it was decoded whole and is kept already. Raises
        UserError as `video`.
        """
        video = self.video()
        looked_at = torch.stack([look(frame_HWC) for frame_HWC in video.frames_THWC])
        return Video(looked_at, video.fps, video.times_T, video.end)

    def audio(self, sample_rate: int | None = None, mono: bool = True) -> Audio:
        """All sound at `sample_rate` (None: its own), as `sound.decode_audio`; UserError where there is none."""
        key = (sample_rate, mono)
        if key not in self._audio:
            self._audio[key] = self._decode_audio(sample_rate, mono)
        return self._audio[key]

    @abstractmethod
    def pcm16(self, sample_rate: int) -> np.ndarray:
        """Mono sound as int16 [S], as `sound.decode_pcm16`; UserError where there is none."""

    def once(self, key: str, prepare: Callable[[], T]) -> T:
        """What `prepare` returns, kept until `release` under `key`: extractors that prepare a clip alike do it once."""
        if key not in self._results:
            self._results[key] = prepare()
        return cast(T, self._results[key])

    def release(self) -> None:
        """Drops the decoded frames and sound."""
        self._video = None
        self._audio.clear()
        self._results.clear()

    @abstractmethod
    def _digest(self) -> str: ...

    @abstractmethod
    def _decode_video(self) -> Video: ...

    @abstractmethod
    def _decode_audio(self, sample_rate: int | None, mono: bool) -> Audio: ...


class FileItem(Item):
    """A clip on disk; `sound` is the file beside it that gives the sound if `path` has none."""

    path: Path

    def __init__(
        self,
        path: Path,
        id: str,
        caption: str = "",
        *,
        sound: Path | None = None,
        failed: str | None = None,
    ) -> None:
        super().__init__(id, caption, failed, path)
        self._sound = sound

    @cached_property
    def sound_path(self) -> Path:
        """The file of the sound."""
        if self._sound is None:
            return self.path
        with opened(self.path, self.name) as (container, _):
            return self.path if container.streams.audio else self._sound

    def frames_through(self, look: Callable[[Tensor], Tensor]) -> Video:
        if self._video is not None:
            return super().frames_through(look)
        return decode_video(self.path, name=self.name, transform=look)

    def pcm16(self, sample_rate: int) -> np.ndarray:
        return decode_pcm16(self.sound_path, sample_rate, name=self.name)

    def _digest(self) -> str:
        own = file_sha256(self.path)
        if self.sound_path == self.path:
            return own
        return hashlib.sha256(f"{own} {file_sha256(self.sound_path)}".encode()).hexdigest()

    def _decode_video(self) -> Video:
        return decode_video(self.path, name=self.name)

    def _decode_audio(self, sample_rate: int | None, mono: bool) -> Audio:
        return decode_audio(self.sound_path, sample_rate, name=self.name, mono=mono)


class MemoryItem(Item):
    """A row of a ClipSet."""

    def __init__(self, clips: ClipSet, place: int) -> None:
        failed = clips.meta[place].get(FAILED)
        super().__init__(clips.ids[place], clips.captions[place], str(failed) if failed else None)
        self._clips, self._place = clips, place

    def pcm16(self, sample_rate: int) -> np.ndarray:
        wave_S = self.audio(sample_rate).wave_S
        return (wave_S * 32768).round().clamp(-32768, 32767).numpy().astype(np.int16)

    def _digest(self) -> str:
        frames_THWC, wave_S = self._clips.frames_NTHWC[self._place], self._clips.waves_NS[self._place]
        facts = f"{list(frames_THWC.shape)} {self._clips.fps!r} {self._clips.sample_rate} "
        digest = hashlib.sha256(facts.encode())
        digest.update(frames_THWC.contiguous().numpy().tobytes())
        digest.update(wave_S.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _decode_video(self) -> Video:
        frames_THWC = self._clips.frames_NTHWC[self._place]
        times_T = torch.arange(len(frames_THWC), dtype=torch.float64) / self._clips.fps
        return Video(frames_THWC, self._clips.fps, times_T)

    def _decode_audio(self, sample_rate: int | None, mono: bool) -> Audio:
        wave_S, own = self._clips.waves_NS[self._place], self._clips.sample_rate
        if not bool(torch.isfinite(wave_S).all()):
            raise UserError(f"{self.name}: its sound is not finite")
        wave_S = resample(wave_S, own, sample_rate or own)
        return Audio(wave_S if mono else wave_S[None], sample_rate or own, 0.0)


def memory_items(clips: ClipSet) -> list[Item]:
    """Each row of the set as an item."""
    return [MemoryItem(clips, place) for place in range(len(clips))]


@dataclass(frozen=True)
class Found:
    """The clips of a folder or file, and notes on unused files."""

    items: list[Item]
    notes: list[str]


def items_in(path: str | Path, captions: Mapping[str, str] | None = None) -> list[Item]:
    """The clips of `find_items` without the notes."""
    return find_items(path, captions).items


def find_items(path: str | Path, captions: Mapping[str, str] | None = None) -> Found:
    """The clips of a folder (and the folders below it), of a clips.safetensors, or one media file.

    `captions` by id take precedence over those found in the folder (see `captions.read_captions`). In the
    order of their ids. A clip whose file cannot be opened (a broken link, no permission) is there as failed, so
    that it counts as missing. Raises UserError where there is no clip, two pictures share an id, or captions were
    given and none belongs to a clip.
    """
    path = Path(path)
    if path.is_dir() and (path / "clips.safetensors").is_file():
        path = path / "clips.safetensors"
    if path.suffix == ".safetensors":
        items = memory_items(ClipSet.load(path))
        _caption(items, captions, path)
        return Found(items, [])
    if path.is_file():
        return _one(path, captions)
    if not path.is_dir():
        raise UserError(
            f"{shown(path)}: no such file or folder; name a folder of clips or a clips.safetensors"
        )
    folder = files_of(path, PICTURES + SOUNDS)
    if not folder.files and not folder.unusable:
        kinds = ", ".join(kind.lstrip(".") for kind in PICTURES + SOUNDS)
        ignored = f" ({folder.summary()})" if folder.summary() else ""
        raise UserError(
            f"{shown(path)}: holds no clips.safetensors and no clip ({kinds}){ignored}; name the folder they are in"
        )
    found: dict[str, list[Path]] = {}
    for file in folder.files:
        found.setdefault(clip_id(file.relative_to(path)), []).append(file)
    lost = {clip_id(PurePosixPath(entry.path)): entry for entry in folder.unusable}
    texts = [
        file
        for file in folder.other_files
        if file.suffix.lower() == ".txt" and clip_id(file.relative_to(path)) in found.keys() | lost.keys()
    ]
    written = read_captions(path, texts)
    items = [_item(id, same, written.texts.get(id, "")) for id, same in found.items()]
    items += [
        FileItem(path / entry.path, id, written.texts.get(id, ""), failed=entry.reason)
        for id, entry in lost.items()
        if id not in found
    ]
    items.sort(key=lambda item: item.id)
    _caption(items, captions, path)
    unused = folder.summary([*texts, *(path / name for name in IN_FOLDER)])
    return Found(items, [*filter(None, [unused]), *written.notes, *without_clip(written.texts, items)])


def without_clip(texts: Mapping[str, str], items: Sequence[Item], what: str = "captions") -> list[str]:
    """A note on texts without a clip, where there are any."""
    unknown = texts.keys() - {nfc(item.id) for item in items}
    return [f"{len(unknown)} {what} belong to no clip: {few(unknown)}"] if unknown else []


def _one(path: Path, captions: Mapping[str, str] | None) -> Found:
    if path.suffix.lower() not in PICTURES + SOUNDS:
        raise UserError(
            f"{shown(path)}: is no clip; name a folder of them or a file of {', '.join(PICTURES + SOUNDS)}"
        )
    if unusable(path.name):
        raise UserError(f"{shown(path)}: its name is not UTF-8; rename it")
    id = clip_id(PurePosixPath(path.name))
    texts = [file for file in path.parent.iterdir() if file.suffix.lower() == ".txt"]
    texts = [file for file in texts if clip_id(PurePosixPath(file.name)) == id]
    written = read_captions(path.parent, sorted(texts))
    items: list[Item] = [_item(id, [path], written.texts.get(id, ""))]
    _caption(items, captions, path)
    return Found(items, written.notes)


def _item(id: str, files: Sequence[Path], caption: str) -> FileItem:
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    sounds = [file for file in files if file.suffix.lower() in SOUNDS]
    for same in (pictures, sounds):
        if len(same) > 1:
            raise UserError(
                f"{shown(same[0])} and {shown(same[1].name)} have the same id {shown(id)}; keep one of them"
            )
    return FileItem((pictures or sounds)[0], id, caption, sound=sounds[0] if pictures and sounds else None)


def _caption(items: Sequence[Item], captions: Mapping[str, str] | None, path: Path) -> None:
    if captions is None:
        return
    known = {nfc(item.id) for item in items}
    if captions and not known & captions.keys():
        raise UserError(
            f"{shown(path)}: no clip here has the id of a caption; the captions name {few(captions)}, "
            f"the clips are {few(known)}"
        )
    for item in items:
        item.caption = captions.get(nfc(item.id), item.caption)


def reason_of(error: Exception, item: Item) -> str:
    """The error without the clip's name, which is shown next to it."""
    text = " ".join(str(error).split())
    for name in (f"{item.path}: ", f"{item.name}: ", f"{item.id}: "):
        text = text.removeprefix(name)
    return text


def why_lost(error: Exception, item: Item) -> str:
    """Why a clip has no value: the reason of a UserError; else the fault that a metric or a library raised."""
    if isinstance(error, UserError):
        return reason_of(error, item)
    return f"{FAULT} ({type(error).__name__}: {shown(reason_of(error, item)) or 'without a message'})"
