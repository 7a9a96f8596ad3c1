"""What the list of clips costs a training process: time to start and memory, at ten million clips; writes clip_list.md.

    python benchmarks/clip_list.py                      ten million clips, about ten minutes and 3 GB of disk
    python benchmarks/clip_list.py --clips 20000        seconds, without touching clip_list.md unless --out is given

The shards are holes of the right size with real indexes: nothing reads a clip. Each row is a process of its own. Memory
is what the process alone has (its anonymous pages), less what it had after its imports; the pages of the file are
shared by all processes of a machine and given up when memory is short.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
PER_SHARD, BYTES = 10_000, 20_480
RUNS = {
    "sound cut to random lengths": {
        "modalities": ["audio"],
        "tokens_per_batch": 16384,
        "audio_tokens": {"min": 32, "max": 375, "crop": "random"},
    },
    "picture and sound": {"tokens_per_batch": 65536, "patch_size": [1, 2, 2]},
}
PICTURES = ((48, 31, 44, 44), (48, 31, 30, 66), (48, 31, 66, 30))


def make_shards(folder: Path, clips: int) -> None:
    """Shards without contents and their indexes, as `ovi-data latents` writes those."""
    from ovi_lab.data.index import INDEX_FORMAT, index_path

    for first in range(0, clips, PER_SHARD):
        count = min(PER_SHARD, clips - first)
        tar = folder / f"a-{first // PER_SHARD:05d}.tar"
        with tar.open("wb") as file:
            file.truncate(count * BYTES)
        samples = [
            {
                "key": f"clip{n:010d}",
                "members": {
                    "json": [(n - first) * BYTES + 512, 300],
                    "latents.safetensors": [(n - first) * BYTES + 1536, 15000],
                },
                "shapes": {
                    "video": list(PICTURES[n * 7919 % 3]),
                    "audio": [200 + n * 104729 % 176, 20],
                    "text": [60 + n % 90, 4096],
                },
            }
            for n in range(first, first + count)
        ]
        about = {"format": INDEX_FORMAT, "shard": tar.name, "size": count * BYTES, "sha256": "0" * 64}
        encoders = {"video": ["wan22 x"], "audio": ["mmaudio x"]}
        index_path(tar).write_text(json.dumps({**about, "encoders": encoders, "samples": samples, "bad": []}))


class Memory:
    """Anonymous and file pages of this process in MB, since it was made, and the most anonymous ones meanwhile."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self.before = self.most = self._now()[0]
        self._watch = threading.Thread(target=self._follow, daemon=True)
        self._watch.start()

    @staticmethod
    def _now() -> tuple[float, float]:
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
        return int(found["RssAnon"]) / 1e3, int(found["RssFile"]) / 1e3

    def _follow(self) -> None:
        while not self._stopped.wait(0.003):
            self.most = max(self.most, self._now()[0])

    def taken(self) -> tuple[float, float]:
        """Anonymous pages: now, and the most at any moment."""
        return self._now()[0] - self.before, self.most - self.before


def measured(folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Of this process: seconds (of the clock, and of its own) and memory of a start, and what comes after it."""
    import random

    import torch

    from ovi_lab.data.module import OviDataModule

    torch.set_num_threads(1)
    memory = Memory()
    found: dict[str, float] = {}
    clock, own = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal clock, own
        found[f"{name} s"], found[f"{name} CPU s"] = time.perf_counter() - clock, time.process_time() - own
        clock, own = time.perf_counter(), time.process_time()

    data = OviDataModule(world=None, root=folder, shards=str(folder / "a-*.tar"), **settings)
    clips = len(data.train_dataset)
    lap("list")
    found["list MB"] = memory.taken()[0]
    batches = iter(data.train_dataloader().order)
    lap("loader")
    next(batches)
    lap("first batch")
    found["order MB"], found["most MB"] = memory.taken()
    data.fingerprint()
    lap("fingerprint")
    numbers = random.Random(0).sample(range(clips), min(clips, 2000))
    for number in numbers:
        data.train_dataset.entries[number]
    lap("entries")
    found["entry us"] = found["entries CPU s"] / len(numbers) * 1e6
    kept = data.train_dataset.entries.kept
    found["file MB"] = 0.0 if kept is None else kept.stat().st_size / 1e6
    return found


def in_a_process(folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """`measured` in a fresh process."""
    command = [sys.executable, __file__, "--measure", str(folder), json.dumps(settings)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(rows: dict[str, tuple[dict[str, float], dict[str, float]]], clips: int) -> str:
    """The whole of clip_list.md."""
    import torch

    lines = [
        f"# The list of clips: a start with {clips:,} of them",
        "",
        f"`python benchmarks/clip_list.py`: {os.cpu_count()} cores ({platform.machine()}), PyTorch "
        f"{torch.__version__}, {-(-clips // PER_SHARD):,} shards of {PER_SHARD:,} clips, indexes and list in the page "
        "cache; one process, one thread. Start: from the shards' names to the numbers of the first batch, its epoch's "
        "order drawn. Seconds of the clock, in parentheses of the process itself (the machine was not idle).",
        "",
        "| run | first start, which makes the list | later start | of that the list, loader, order | fingerprint | "
        "an entry | file |",
        "|---|---|---|---|---|---|---|",
    ]
    parts = ("list", "loader", "first batch")
    for name, (first, later) in rows.items():
        starts = [
            f"{sum(row[f'{part} s'] for part in parts):.1f} s ({sum(row[f'{part} CPU s'] for part in parts):.1f})"
            for row in (first, later)
        ]
        split = ", ".join(f"{later[f'{part} s']:.1f}" for part in parts)
        lines.append(
            f"| {name} | {' | '.join(starts)} | {split} s | {later['fingerprint s']:.2f} s | "
            f"{later['entry us']:.0f} µs | {later['file MB']:,.0f} MB |"
        )
    lines += [
        "",
        "Memory of one process alone (anonymous pages, after its imports). The file's pages are shared by all "
        "processes of a machine.",
        "",
        "| run | the list | with loader and the order of an epoch | most at any moment | most while the list is made |",
        "|---|---|---|---|---|",
    ]
    for name, (first, later) in rows.items():
        cells = (later["list MB"], later["order MB"], later["most MB"], first["most MB"])
        lines.append(f"| {name} | " + " | ".join(f"{cell:.0f} MB" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=10_000_000)
    parser.add_argument("--out", type=Path, help="file to write; at the default number clip_list.md")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(Path(arguments.measure[0]), json.loads(arguments.measure[1]))))
        return
    with TemporaryDirectory() as name:
        make_shards(Path(name), arguments.clips)
        rows = {}
        for run, settings in RUNS.items():
            rows[run] = (in_a_process(Path(name), settings), in_a_process(Path(name), settings))
    text = report(rows, arguments.clips)
    print(text)
    out = arguments.out or (HERE / "clip_list.md" if arguments.clips == 10_000_000 else None)
    if out is not None:
        temporary = out.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(out)


if __name__ == "__main__":
    main()
