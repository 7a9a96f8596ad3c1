"""Weights and inputs generated from a key, exact on every machine, in place of files too large to keep.

The goldens' README gives the rule. A key's crc32 and a counter go through splitmix64 to numbers in [0, 1);
a tensor's rank and the last part of its name say how these are scaled. With such weights a network shows
whether its architecture and front end are right, never what it can tell.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 15
"""Numbers that are made together: a quarter of a megabyte, which stays in a core's cache."""


def hashed(key: str, count: int, first: int = 0) -> np.ndarray:
    """Numbers `first` to `first + count` of the key's sequence, float64 in [0, 1)."""
    z = np.arange(first, first + count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z += np.uint64(zlib.crc32(key.encode()) << 32) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z ^= z >> np.uint64(shift)
            z *= np.uint64(factor)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53


def gaussian(key: str, count: int) -> np.ndarray:
    """Numbers with a normal distribution, from two of the key's sequences (Box and Muller)."""
    radius = np.sqrt(-2 * np.log(1 - hashed(f"{key}:1", count)))
    return radius * np.cos(2 * np.pi * hashed(f"{key}:2", count))


def _scaling(name: str, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    leaf = name.split(".")[-1]
    if leaf == "running_var":
        return lambda u: 0.5 + u
    if leaf == "running_mean":
        return lambda u: 0.2 * (2 * u - 1)
    if len(shape) >= 2:
        width = np.sqrt(6.0 / np.prod(shape[1:]))
        return lambda u: (2 * u - 1) * width
    if leaf == "weight":
        return lambda u: 0.75 + 0.5 * u
    return lambda u: 0.1 * (2 * u - 1)


def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of that published name and shape, float32; made in pieces, as some hold 50 million numbers."""
    scale = _scaling(name, shape)
    flat = np.empty(int(np.prod(shape)), dtype=np.float32)
    for first in range(0, len(flat), PIECE):
        count = min(PIECE, len(flat) - first)
        flat[first : first + count] = scale(hashed(name, count, first))
    return torch.from_numpy(flat.reshape(shape))


def published_keys(path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of each tensor of a published file, from its list in the goldens."""
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        if not line.startswith("#"):
            name, rest = line.split(" ", 1)
            inside, kind = rest.strip("(").split(")")
            yield name, tuple(int(n) for n in inside.split(",") if n.strip()), kind.strip()


def weights(path: Path) -> dict[str, Tensor]:
    """A whole published file's tensors, by its list of keys."""
    return {
        name: tensor(name, shape) if kind == "float32" else torch.zeros(shape, dtype=torch.int64)
        for name, shape, kind in published_keys(path)
    }


def clip(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A moving pattern, uint8 [T, H, W, 3], in whole numbers throughout."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    slopes = x * (3 + c) + y * (5 - c) + t * (7 + 2 * c)
    curves = ((x * y) >> (3 + c)) + (((x - 4 * t) ** 2 + (y - 3 * t) ** 2) >> 6)
    return ((slopes + curves + 37 * seed) % 256).astype(np.uint8)


def wave(sample_rate: int, seconds: float, seed: int = 0) -> np.ndarray:
    """A rising tone, a beating one, a high one and noise: int16 [S]."""
    count = round(sample_rate * seconds)
    t = np.arange(count) / sample_rate
    low = 110.0 * (1 + seed)
    sound = 0.35 * np.sin(2 * np.pi * (low * t + 150.0 * t**2))
    sound = sound + 0.2 * np.sin(2 * np.pi * 997.0 * t) * (0.5 + 0.5 * np.sin(2 * np.pi * 3.0 * t))
    sound = sound + 0.1 * np.sin(2 * np.pi * 3500.0 * t + 0.3) + 0.05 * (2 * hashed(f"wave{seed}", count) - 1)
    return np.round(sound * 32767.0 * 0.9).astype(np.int16)
