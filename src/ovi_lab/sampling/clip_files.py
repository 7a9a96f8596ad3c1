"""Clips as files: mp4 with what made them in their metadata, read back for resuming; contact sheets beside them.

Shape suffixes: T frames, H rows, W columns, C channels, S samples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ovi_eval.clips.container import opened
from ovi_eval.clips.writing import write_mp4
from ovi_eval.common.files import written_whole
from ovi_eval.common.plain_data import parse_json
from ovi_eval.errors import UserError

RECORD = "ovi_lab"
"""The metadata's key whose value is the whole record of a clip, JSON."""


def write_clip(
    path: Path,
    frames_THWC: Tensor,
    fps: float,
    wave_S: Tensor,
    sample_rate: int,
    record: Mapping[str, Any],
    enlarge_to: int = 0,
) -> Path:
    """Write an mp4 (H.264 and AAC, sound as long as the picture) with its record, whole or not at all.

    The record lies as JSON under `ovi_lab`, each of its values under its own name as well, and the prompt as
    the title, which players show.

    Raises UserError where there is nothing to write or no place for it.
    """
    tags = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        for name, value in {RECORD: record, **record}.items()
    }
    tags["title"] = str(record.get("prompt", ""))[:250]
    return write_mp4(path, frames_THWC, fps, wave_S, sample_rate, enlarge_to=enlarge_to, metadata=tags)


def read_record(path: Path) -> tuple[dict[str, Any] | None, bool]:
    """The record of a clip, and whether the clip is there to its last byte; (None, False) for other files."""
    record = None
    try:
        with opened(path) as (container, _):
            found = parse_json(container.metadata.get(RECORD, "null"), str(path))
            if not isinstance(found, dict) or not (container.streams.video and container.streams.audio):
                return None, False
            record = found
            frames = container.streams.video[0].frames
        return record, frames == record.get("frames") and _boxes_end_with(path)
    except (OSError, ValueError, UserError):
        return record, False


def _boxes_end_with(path: Path) -> bool:
    """Whether the last of the mp4's top-level boxes (ISO 14496-12, 4.2) ends where the file ends."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:  # a long one
                length = int.from_bytes(head[8:], "big")
            if length < 8:
                return False
            at += length
    return at == size


def write_sheet(path: Path, frames_THWC: Tensor, columns: int = 4, count: int = 12, side: int = 320) -> Path:
    """A PNG of up to `count` frames spread evenly over the clip, first and last among them, in rows.

    Each is at most `side` pixels long. Whole or not at all; raises UserError where there is no place for it.
    """
    from PIL import Image

    T, H, W, _ = frames_THWC.shape
    count = min(count, T)
    scale = min(1.0, side / max(H, W))
    h, w = max(1, round(H * scale)), max(1, round(W * scale))
    sheet = Image.new("RGB", (w * min(columns, count), h * math.ceil(count / columns)))
    for place in range(count):
        frame = frames_THWC[round(place * (T - 1) / max(1, count - 1))]
        picture = Image.fromarray(frame.numpy()).resize((w, h), Image.Resampling.BICUBIC)
        sheet.paste(picture, (w * (place % columns), h * (place // columns)))
    with written_whole(path) as temporary:
        sheet.save(temporary, "PNG")
    return path
