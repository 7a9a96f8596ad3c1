"""Named random numbers: every draw belongs to a purpose, and depends on nothing but that purpose and the seed."""

from __future__ import annotations

import hashlib

import torch


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed from a purpose and its coordinates, e.g. `seed_for(seed, "train-noise", rank, step)`.

    SHA-256 rather than `hash()`, which changes from process to process.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose; see `seed_for`."""
    return torch.Generator(device).manual_seed(seed_for(*parts))
