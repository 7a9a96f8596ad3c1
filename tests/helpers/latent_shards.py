"""Shards of small latents for tests: what each sample holds is written in its numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ovi_lab.data.decode import latent_members
from ovi_lab.data.index import LATENT_PARTS
from ovi_lab.data.loading import ClipLoader
from ovi_lab.data.shards import Members, ShardWriter


def write_shard(path: Path, samples: Mapping[str, Members]) -> Path:
    """One shard of the members of samples by their keys."""
    with ShardWriter(path) as shard:
        for key, members in samples.items():
            shard.write(key, members)
    return path


def write_latents(path: Path, samples: Sequence[dict[str, Any]], **made_by: str) -> Path:
    """One shard; each sample {"video": shape, "audio": shape, "text": shape}, those that it has.

    Tensors hold the sample's number; sound counts up along its length, so that a cut shows where it was made.
    """
    members = {}
    for n, shapes in enumerate(samples):
        parts = {part: torch.full(shape, float(n)) for part, shape in shapes.items()}
        if "audio" in parts:
            parts["audio"] = parts["audio"] + torch.arange(len(parts["audio"]))[:, None] / 1000
        video, audio, text = (parts.get(part) for part in LATENT_PARTS)
        about = (f"clip {n}", {"n": n})
        members[f"{path.stem}-{n:04d}"] = latent_members(*about, video, audio, text, encoded_by=made_by)
    return write_shard(path, members)


def endless(loader: ClipLoader) -> Iterator[dict[str, Any]]:
    """Epoch after epoch."""
    while True:
        yield from loader


def first(loader: ClipLoader, count: int, what: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """`what` of the first batches, after which the loader is left in the middle of its work."""
    batches = endless(loader)
    found = [what(next(batches)) for _ in range(count)]
    batches.close()
    return found
