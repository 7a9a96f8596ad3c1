"""What steps with networks share: an extractor of ovi_eval, and a clip as its item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.clips.items import Item, MemoryItem
from ovi_eval.common.needs import Need, lacking
from ovi_lab.data.build.clip import Candidate


def missing_of(needs: Sequence[Need], for_what: str) -> str | None:
    """The first of the packages, weight files and folders that is not here, with the remedy; None where all are."""
    return next(iter(lacking(needs, for_what)), None)


def as_item(clip: Candidate) -> Item:
    """The clip as metrics take it; without a picture one black frame stands for it, without sound silence."""
    frames_THWC = clip.frames_THWC
    if frames_THWC is None:
        frames_THWC = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    wave_S = clip.wave_S
    if wave_S is None:
        wave_S = torch.zeros(round(clip.seconds * clip.sample_rate))
    facts: Any = {"fps": clip.fps, "sample_rate": clip.sample_rate}
    clips = ClipSet(
        frames_NTHWC=frames_THWC[None], waves_NS=wave_S[None], ids=[clip.key], captions=[""], **facts
    )
    return MemoryItem(clips, 0)


def digests_of(paths: Sequence[Path]) -> dict[str, str]:
    """sha256 by file name."""
    from ovi_eval.common.files import file_sha256

    return {path.name: file_sha256(path) for path in paths}
