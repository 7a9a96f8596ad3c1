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
from ovi_eval.report.html.pictures import poster, timeline
from ovi_eval.report.html.transcode import SECONDS, small_clip

# Clips that are decoded side by side; FFmpeg works without holding Python up.
AT_ONCE = 4


@dataclass(frozen=True)
class Shown:
    """A clip ready for the page: its number there, its length, its shape, what is to be said of it."""

    number: int
    seconds: float
    width: int
    height: int
    note: str
    data: str

    @property
    def size(self) -> int:
        """Characters that it adds to the page."""
        return len(self.data)


class Shelf:
    """Reads clips, keeps those taken, and counts what they add to the page.

    `budget`: characters of base64 text; the page is this much and its tables large.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._read: dict[Path, Shown | str] = {}
        self._taken: dict[int, Shown] = {}

    def look(self, paths: Sequence[Path]) -> list[Shown | str]:
        """The clips of these files, each read once and several at a time; or why one cannot be shown."""
        new = [path for path in dict.fromkeys(paths) if path not in self._read]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            read = pool.map(_show, new, range(len(self._read), len(self._read) + len(new)))
            self._read.update(zip(new, read, strict=True))
        return [self._read[path] for path in paths]

    def cost(self, shown: Shown | str) -> int:
        """What taking it would add: nothing for what is here already or cannot be shown."""
        return 0 if isinstance(shown, str) or shown.number in self._taken else shown.size

    def take(self, shown: Shown | str) -> None:
        """Puts a clip into the page."""
        self.used += self.cost(shown)
        if not isinstance(shown, str):
            self._taken[shown.number] = shown

    def html(self) -> str:
        """The data of all clips taken, which the page's script reads when a clip comes into view."""
        return "".join(
            f'<script type="application/json" id="clip-{shown.number}">{shown.data}</script>'
            for shown in self._taken.values()
        )


def _show(path: Path, number: int) -> Shown | str:
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
    data = {
        "mp4": base64.b64encode(clip.mp4).decode(),
        **{key: data_uri("image/jpeg", content) for key, content in pictures.items()},
    }
    said = [f"the first {SECONDS:g} s"] * clip.cut + ["no sound"] * clip.silent + ["sound alone"] * clip.blind
    height, width = clip.frames_THWC.shape[1:3]
    seconds = len(clip.frames_THWC) / clip.fps
    return Shown(number, seconds, width, height, ", ".join(said), json.dumps(data).replace("<", "\\u003c"))


def data_uri(kind: str, content: bytes) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
