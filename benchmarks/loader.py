"""What the loader reads in a second, what a training step waits for it, and what resuming costs; writes loader.md.

    python benchmarks/loader.py                 about three minutes of two cores
    python benchmarks/loader.py --size tiny     seconds, without touching loader.md unless --out is given

Everything goes through the loader that training uses, over shards made on the spot (so from the page cache: what a disk
adds is not in the numbers). The variants of a row run in turn, over and over, so that what else the machine does falls
on all of them; the quickest round counts. A step stands for one on a GPU: it sleeps as long as reading its batch takes
without workers, so a loader that does not read ahead lets it wait for half of the time.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from ovi_eval.clips.writing import write_mp4
from ovi_lab.codecs import LatentCodec
from ovi_lab.data.buckets import Buckets, Pick
from ovi_lab.data.dataset import ClipDataset, Sample
from ovi_lab.data.decode import json_bytes, latent_members
from ovi_lab.data.loading import ClipLoader
from ovi_lab.data.prepare import WorldSettings, prepare_world, shards_of
from ovi_lab.data.shapes import ClipShapes
from ovi_lab.data.shards import ShardWriter
from ovi_lab.data.worlds import get_world

HERE = Path(__file__).resolve().parent
WORKERS = (0, 1, 2)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"world": 32, "mp4": 8, "large": 4, "rounds": 1, "batches": (10, 100), "most": 200},
    "mid": {
        "world": 1024,
        "mp4": 96,
        "large": 32,
        "rounds": 3,
        "batches": (10, 1_000, 100_000, 1_000_000),
        "most": 1_050_000,
    },
}


@dataclass
class Case:
    """Clips of one kind, as a run would load them."""

    name: str
    dataset: ClipDataset
    batch_size: int

    @property
    def clip_bytes(self) -> float:
        entries = self.dataset.entries
        return sum(size for entry in entries for _, size in entry.members.values()) / len(entries)


class Repeated(ClipDataset):
    """The same samples over and over, whatever the number."""

    def __getitem__(self, index: int | Pick) -> Sample:
        return super().__getitem__(index % len(self))  # type: ignore[operator]


@dataclass
class Pace:
    """One variant's best round."""

    clips_per_s: float = 0.0
    wait_share: float = 1.0


def ball_mp4(folder: Path, count: int) -> Path:
    """The ball's clips as H.264 and AAC, 64x64."""
    clips = get_world("bouncing_ball").render(range(count), seed=1)
    path = folder / "mp4-000.tar"
    with ShardWriter(path) as shard:
        for n in range(count):
            file = folder / "clip.mp4"
            write_mp4(file, clips.frames_NTHWC[n], clips.fps, clips.waves_NS[n], 8000, enlarge_to=64)
            members = {"json": json_bytes({"caption": clips.captions[n]}), "mp4": file.read_bytes()}
            shard.write(f"c{n:04d}", members)
    return path


def random_latents(path: Path, count: int, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Latents of these shapes in bf16."""
    with ShardWriter(path) as shard:
        for n in range(count):
            parts = {part: torch.randn(shape).bfloat16() for part, shape in shapes.items()}
            members = latent_members("", {}, parts.get("video"), parts["audio"], parts["text"])
            shard.write(f"c{n:04d}", members)
    return path


def cases(folder: Path, size: Mapping[str, Any]) -> list[Case]:
    """Media and latents, small and of the released size."""
    settings = WorldSettings("bouncing_ball", num_train=size["world"], num_eval=1)
    world = prepare_world(settings, folder, quiet=True)
    codec = LatentCodec.load(world / "codec.safetensors")
    mp4 = ball_mp4(folder, size["mp4"])
    av = random_latents(
        folder / "av-000.tar",
        size["large"],
        {"video": (48, 31, 44, 44), "audio": (157, 20), "text": (120, 4096)},
    )
    sound = random_latents(
        folder / "sound-000.tar", 8 * size["large"], {"audio": (375, 20), "text": (120, 4096)}
    )
    small = min(16, size["mp4"] // 4)
    return [
        Case("media: mp4 of 64x64, 32 frames, decoded and encoded", ClipDataset(mp4, codec), small),
        Case(
            "media: arrays of 16x16, encoded", ClipDataset(shards_of(world, "train", "media"), codec), small
        ),
        Case("latents of the ball world", ClipDataset(shards_of(world, "train", "latents")), 16),
        Case(
            "stage 1: latents of 12 s of sound, 120 words",
            ClipDataset(sound, modalities=["audio"]),
            size["large"] // 4,
        ),
        Case("stage 3: latents of 704x704, 5 s, 120 words", ClipDataset(av), 1),
    ]


def seconds(function: Callable[[], Any]) -> float:
    """Of one call."""
    before = time.perf_counter()
    function()
    return time.perf_counter() - before


def loader(case: Case, workers: int, prefetch: int) -> ClipLoader:
    """Training's own."""
    return ClipLoader(case.dataset, case.batch_size, seed=1, num_workers=workers, prefetch=prefetch)


def reading(case: Case, workers: int) -> float:
    """Clips a second of an epoch whose batches are not used, after the first has come (processes start up)."""
    batches = iter(loader(case, workers, 0))
    next(batches)
    clips = 0

    def drain() -> None:
        nonlocal clips
        clips = sum(len(batch["id"]) for batch in batches)

    taken = seconds(drain)
    return clips / taken


def waiting(case: Case, workers: int, prefetch: int, step_s: float) -> float:
    """The share of an epoch's time, after its first batch, in which steps of `step_s` wait for their batch."""
    one = loader(case, workers, prefetch)
    batches = iter(one)
    next(batches)
    waited, before = one.waited_s, time.perf_counter()
    time.sleep(step_s)
    for _ in batches:
        time.sleep(step_s)
    return (one.waited_s - waited) / (time.perf_counter() - before)


def measured(case: Case, rounds: int) -> dict[tuple[int, int], Pace]:
    """By workers and prefetch; all variants in turn, `rounds` times."""
    found = {(workers, prefetch): Pace() for workers in WORKERS for prefetch in (0, 2)}
    for _ in range(rounds):
        for workers in WORKERS:
            speed = reading(case, workers)
            for prefetch in (0, 2):
                found[workers, prefetch].clips_per_s = max(found[workers, prefetch].clips_per_s, speed)
    step_s = case.batch_size / found[0, 0].clips_per_s
    for _ in range(rounds):
        for (workers, prefetch), pace in found.items():
            pace.wait_share = min(pace.wait_share, waiting(case, workers, prefetch, step_s))
    return found


def resumes(folder: Path, size: Mapping[str, Any], rounds: int) -> Iterator[tuple[str, int, float]]:
    """(order, batches seen before, seconds from a loader's state to its first batch); positions in turn."""
    path = folder / "lengths-000.tar"
    with ShardWriter(path) as shard:
        for n in range(345):
            audio, text = torch.zeros(31 + n, 20).bfloat16(), torch.zeros(4, 64).bfloat16()
            shard.write(f"c{n:04d}", latent_members("", {}, None, audio, text))
    dataset = Repeated(path, modalities=["audio"])
    clips = 4 * size["most"]
    none, shapes = np.zeros(clips, np.uint32), dataset.shapes
    repeated = ClipShapes(shapes.forms, np.resize(shapes.form_N, clips), np.resize(shapes.length_N, clips))
    orders = {
        "4 clips a batch": Buckets(ClipShapes([None], none, none), 4),
        "1,000 tokens a batch, 29 buckets": Buckets(repeated, tokens_per_batch=1000),
    }
    for name, buckets in orders.items():
        for position in size["batches"]:
            best = float("inf")
            for _ in range(rounds):
                resumed = ClipLoader(dataset, seed=1, buckets=buckets)
                resumed.load_state_dict({"epoch": 3, "position": position})
                best = min(best, seconds(lambda resumed=resumed: next(iter(resumed))))  # type: ignore[misc]
            yield name, position, best


def report(
    paces: Mapping[str, tuple[Case, dict[tuple[int, int], Pace]]],
    resumed: list[tuple[str, int, float]],
    most: int,
) -> str:
    """The whole of loader.md."""
    lines = [
        "# The loader: clips a second, waiting, and what resuming costs",
        "",
        f"`python benchmarks/loader.py`: {os.cpu_count()} cores ({platform.machine()}), no GPU, 1 thread a process, "
        f"PyTorch {torch.__version__}, shards in the page cache. Clips a second through the loader that training uses; "
        "a core is a process that reads (without workers, the training process itself).",
        "",
        "| clips | KB a clip | 0 workers, clips/s | 1 worker | 2 workers | clips/s per core with 2 | MB/s with 2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (case, pace) in paces.items():
        speeds = [pace[workers, 0].clips_per_s for workers in WORKERS]
        shown = " | ".join(
            f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}" for speed in (*speeds, speeds[2] / 2)
        )
        lines.append(
            f"| {name} | {case.clip_bytes / 1e3:,.0f} | {shown} | {speeds[2] * case.clip_bytes / 1e6:,.0f} |"
        )
    lines += [
        "",
        "Share of the time that steps wait for their batch, where a step (asleep, as on a GPU) lasts as long as "
        "reading its batch takes without workers. `prefetch` batches are made ready by a thread of the process itself:",
        "",
        "| clips | " + " | ".join(f"{w} workers, prefetch {p}" for w in WORKERS for p in (0, 2)) + " |",
        "|---|" + "---|" * 6,
    ]
    for name, (_, pace) in paces.items():
        shares = " | ".join(f"{pace[w, p].wait_share:.0%}" for w in WORKERS for p in (0, 2))
        lines.append(f"| {name} | {shares} |")
    lines += [
        "",
        f"Seconds from a loader's state to its first batch, in an epoch of {4 * most:,} clips (real samples, an index "
        "that repeats them): the order of a whole epoch is worked out once, whatever was seen of it.",
        "",
        "| order | "
        + " | ".join(f"{p:,} batches in" for p in dict.fromkeys(p for _, p, _ in resumed))
        + " |",
        "|---|" + "---|" * len({p for _, p, _ in resumed}),
    ]
    for name in dict.fromkeys(name for name, _, _ in resumed):
        lines.append(f"| {name} | " + " | ".join(f"{s:.2f}" for n, _, s in resumed if n == name) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--out", type=Path, help="file to write; at the default size loader.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("ovi_lab.data").setLevel(logging.ERROR)  # of sound that is resampled
    size = SIZES[arguments.size]
    paces = {}
    with TemporaryDirectory() as name, Progress(transient=True) as bar:
        task = bar.add_task("making shards", total=None)
        made = cases(Path(name), size)
        bar.update(task, total=len(made) + 2 * len(size["batches"]))
        for case in made:
            bar.update(task, description=case.name)
            paces[case.name] = (case, measured(case, size["rounds"]))
            bar.advance(task)
        resumed = []
        for row in resumes(Path(name), size, size["rounds"]):
            bar.update(task, description="resuming")
            resumed.append(row)
            bar.advance(task)
    text = report(paces, resumed, size["most"])
    print(text)
    out = arguments.out or (HERE / "loader.md" if arguments.size == "mid" else None)
    if out is not None:
        temporary = out.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(out)


if __name__ == "__main__":
    main()
