"""The clips that the page carries: each once, however often it is shown, and no more than fit."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ovi_eval.common.places import without_places
from ovi_eval.errors import UserError
from ovi_eval.report.html.small_clip import SECONDS, small_clip
from ovi_eval.report.html.timeline_picture import poster, timeline

# Clips that are decoded side by side; FFmpeg works without holding Python up.
AT_ONCE = 4


@dataclass(frozen=True)
class PageClip:
    """A clip ready for the page: its number there, its length, its shape, what is to be said of it.

    `data`: JSON of the mp4, the timeline and the first frame, without a `<`.
    """

    number: int
    seconds: float
    width: int
    height: int
    note: str
    data: str


class ClipStore:
    """Reads clips, keeps those that are added to the page, and counts the characters that these take.

    `budget`: characters of base64 text; the page is this much and its tables large.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.added: dict[int, PageClip] = {}
        self._read: dict[Path, PageClip | str] = {}

    def read(self, paths: Sequence[Path]) -> list[PageClip | str]:
        """The clips of these files, each read once and several at a time; or why one cannot be shown."""
        new = [path for path in dict.fromkeys(paths) if path not in self._read]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            read = pool.map(_read, new, range(len(self._read), len(self._read) + len(new)))
            self._read.update(zip(new, read, strict=True))
        return [self._read[path] for path in paths]

    def cost(self, clip: PageClip | str) -> int:
        """What adding it would take: nothing for what is here already or cannot be shown."""
        return 0 if isinstance(clip, str) or clip.number in self.added else len(clip.data)

    def add(self, clip: PageClip | str) -> None:
        """Puts a clip into the page."""
        self.used += self.cost(clip)
        if not isinstance(clip, str):
            self.added[clip.number] = clip


def _read(path: Path, number: int) -> PageClip | str:
    try:
        clip = small_clip(path)
        pictures = {
            "timeline": timeline(clip.frames_THWC, clip.wave_S, clip.sample_rate),
            "poster": poster(clip.frames_THWC),
        }
    except UserError as error:
        return without_places(str(error))
    except OSError as error:
        return f"{path.name}: {error.strerror or type(error).__name__}"
    except Exception as error:  # whatever a decoder raises for one clip: the page has the others
        return f"{path.name}: {type(error).__name__}: {without_places(str(error))}"
    coded = {key: f"data:image/jpeg;base64,{_base64(content)}" for key, content in pictures.items()}
    data = json.dumps({"mp4": _base64(clip.mp4), **coded}).replace("<", "\\u003c")
    notes = (
        [f"the first {SECONDS:g} s"] * clip.cut + ["no sound"] * clip.silent + ["sound alone"] * clip.blind
    )
    height, width = clip.frames_THWC.shape[1:3]
    return PageClip(number, len(clip.frames_THWC) / clip.fps, width, height, ", ".join(notes), data)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
