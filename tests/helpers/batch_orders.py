"""Orders of batches for many kinds of clips, as digests: what a seed gave once it has to give for ever."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from helpers.latent_shards import write_latents
from ovi_lab.data.batch_order import EpochSampler, Place
from ovi_lab.data.buckets import AudioTokens, Buckets
from ovi_lab.data.module import OviDataModule

CASES: dict[str, dict[str, Any]] = {
    "one shape": {"clips": "unknown", "count": 1003, "batch": 4, "ranks": 2, "group": 2},
    "pictures and sound": {"clips": "mixed", "count": 3000, "tokens": 600, "ranks": 3},
    "some unknown": {"clips": "some", "count": 2000, "batch": 5, "ranks": 4},
    "random cuts": {"clips": "sound", "count": 5000, "tokens": 900, "ranks": 2, "cut": (8, 75, "random")},
    "longer cut": {"clips": "sound", "count": 2000, "tokens": 700, "ranks": 1, "cut": (1, 60, "longer")},
    "edges given": {"clips": "sound", "count": 2000, "tokens": 700, "ranks": 2, "edges": (30, 60, 90)},
    "many": {"clips": "mixed", "count": 20000, "tokens": 600, "ranks": 8},
}
PICTURES = [(4, 3, 8, 2), (4, 3, 4, 8), (4, 5, 4, 4)]


def shapes_of(kind: str, count: int) -> list[dict[str, tuple[int, ...]] | None]:
    """Shapes of a kind of clips, in no order."""
    generator = torch.Generator().manual_seed(count)
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64).tolist()
    if kind == "unknown":
        return [None] * count
    if kind == "sound":
        return [{"audio": (20 + int(80 * b), 5)} for _, b, _ in draws]
    shapes = [{"video": PICTURES[int(2.2 * a)], "audio": (20 + int(80 * b), 5)} for a, b, _ in draws]
    drawn = zip(shapes, draws, strict=True)
    return [None if kind == "some" and c < 0.1 else shape for shape, (_, _, c) in drawn]


def order_of(case: dict[str, Any]) -> str:
    """The digest of all ranks' batches from the start and from a later place, and of those of validation."""
    cut = AudioTokens(*case["cut"]) if "cut" in case else None
    shapes = shapes_of(case["clips"], case["count"])
    sizes = (case.get("batch", 16), case.get("tokens"), case.get("edges"))
    buckets = Buckets(shapes, *sizes, (1, 2, 2), cut, seed=7)
    rows = []
    for rank in range(case["ranks"]):
        sampler = EpochSampler(buckets, 7, rank, case["ranks"], case.get("group", 1))
        for place in (Place(0, 0), Place(2, 5)):
            sampler.place = place
            rows.append(list(sampler))
    rows.append(buckets.in_order())
    plain = [[[list(n) if isinstance(n, tuple) else n for n in batch] for batch in row] for row in rows]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def fingerprint_of(folder: Path) -> str:
    """The fingerprint of two small shards."""
    shapes = [shape for shape in shapes_of("mixed", 40) if shape is not None]
    for n in range(2):
        write_latents(folder / f"m-{n:03d}.tar", shapes[20 * n : 20 * n + 20])
    settings = {"tokens_per_batch": 600, "audio_tokens": {"min": 30}, "seed": 7}
    return OviDataModule(world=None, root=folder, shards=str(folder / "m-*.tar"), **settings).fingerprint()
