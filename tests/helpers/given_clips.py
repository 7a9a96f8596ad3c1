"""Small files of which a clip's parts are given, and requests that name them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers import media_makers
from helpers.made_clips import write_wav
from ovi_lab.checkpoints.presets import released_model
from ovi_lab.sampling.bundle import Formats, lengthened, released_formats
from ovi_lab.sampling.given_files import parse_redo
from ovi_lab.sampling.requests import Request

LENGTH = 7 / 31
"""Of the released clips': 25 frames in 7 latent frames, 35 tokens of 512 samples."""
FRAMES, TOKEN, RATE, FPS = 25, 512, 16000, 24


def moving(time: float) -> np.ndarray:
    """A smooth picture of 48 rows and 96 columns, another one at each moment."""
    y, x = np.mgrid[0:48, 0:96] / 80.0
    shades = [np.sin(3 * x + 2 * time), np.cos(2 * y - time), np.sin(x + y + 3 * time)]
    return ((np.stack(shades, -1) * 0.45 + 0.5) * 255).round().astype(np.uint8)


def write_files(folder: Path) -> dict[str, Path]:
    """Clips of 30 frames and 44,100 samples a second, each with a chord: of 2 s, of 0.6 s, without sound; and a wav."""
    times_S = np.arange(2 * 44100) / 44100
    chord_CS = sum(0.2 * np.sin(2 * np.pi * hz * times_S) for hz in (220, 331, 457))[None].astype(np.float32)
    about: dict[str, Any] = {"fps": 30, "rate": 44100, "picture": moving}
    write_wav(folder / "voice.wav", (chord_CS[0, ::2] * 32767).astype(np.int16), 22050)
    return {
        "long": media_makers.clip(folder / "long.mp4", seconds=2.0, wave_CS=chord_CS, **about),
        "short": media_makers.clip(folder / "short.mp4", seconds=0.6, wave_CS=chord_CS[:, :26460], **about),
        "silent": media_makers.clip(folder / "silent.mp4", seconds=2.0, audio=None, **about),
        "voice": folder / "voice.wav",
    }


def short_formats() -> Formats:
    """The released clips' formats at `LENGTH`."""
    short = released_formats(lengthened(released_model("ovi_720x720_5s"), LENGTH))
    return replace(short, length=LENGTH)


def request_of(files: dict[str, Path], fields: dict[str, str], **more: Any) -> Request:
    named: dict[str, Any] = {k: parse_redo(v) if k == "redo" else files[v] for k, v in fields.items()}
    return Request("a", "it moves", seed=2, **named, **more)
