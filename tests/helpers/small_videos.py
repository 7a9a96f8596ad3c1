"""Small videos for builds of shards, and a recipe for their size."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovi_eval.clips.writing import write_mp4

FPS, RATE, SIDE, FRAMES = 16, 8000, 48, 16

RECIPE: dict[str, Any] = {
    "clips": {"frames": FRAMES, "fps": FPS, "pixels": SIDE * SIDE, "multiple": 16, "sample_rate": RATE},
    "steps": ["motion", "loudness", "fingerprints"],
    "keep": {
        "pixels": {"min": 32 * 32},
        "still_share": {"max": 0.5},
        "mean_volume": {"min": -60, "missing": "drop"},
        "silence_share": {"max": 0.4},
        "bandwidth": {"min": 1500},
    },
    "duplicates": {"picture_print": 0.1},
    "without_caption": "empty",
}


def moving(seed: int, frames: int = 20, side: int = SIDE) -> Tensor:
    """uint8 [T, H, W, 3]: smooth colours that wander over the picture."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=g) * 255
    wide = torch.nn.functional.interpolate(coarse, (2 * side, 2 * side), mode="bicubic").clamp(0, 255)
    step = max(1, side // frames)
    shown = [wide[0, :, i * step : i * step + side, i * step : i * step + side] for i in range(frames)]
    return torch.stack(shown).permute(0, 2, 3, 1).round().to(torch.uint8)


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 0.2 * torch.randn(round(seconds * rate), generator=g)


def write(path: Path, frames: Tensor, wave: Tensor | None = None, rate: int = RATE, fps: float = FPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = noise(len(frames) / fps, len(path.name), rate) if wave is None else wave
    return write_mp4(path, frames, fps, wave, rate, enlarge_to=0)


def digests(out: Path) -> dict[str, str]:
    """sha256 of the files that a build has made, without its work folder."""
    files = [path for path in sorted(out.iterdir()) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def unnamed(printed: str, gone: str, found: str) -> list[str]:
    """What `ovi-data check` should print of a shard that was renamed, and does not."""
    lines = (
        f"manifest.json: {gone}: the shard is missing",
        f"SHA256SUMS: {gone}: is missing",
        f"manifest.json: {found}: the shard is not of this build; remove it",
    )
    return [line for line in lines if line not in printed]
