"""How quick ovi-eval is beside other packages, and what scoring many clips takes; writes evaluation.md beside this.

    pip install torchvggish torchlibrosa python_speech_features     what is compared with, where not there
    python benchmarks/evaluation.py                     everything
    python benchmarks/evaluation.py --only frechet      one part, without touching evaluation.md

Each part runs in a process of its own with one thread. The two sides of a comparison run alternately there, so
that their ratio does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from ovi_eval.backbones import i3d, vggish
from ovi_eval.check.generated import clip, wave, weights
from ovi_eval.clips.items import FileItem
from ovi_eval.clips.writing import write_mp4
from ovi_eval.common.files import write_whole
from ovi_eval.common.weights import WEIGHTS_FOLDER
from ovi_eval.metrics.frechet import FRECHET
from ovi_eval.scoring.runner import ScoringOptions, score_items
from ovi_eval.stats.frechet_intervals import frechet_interval
from ovi_eval.stats.intervals import generator

HERE = Path(__file__).resolve().parent
GOLDENS = HERE.parent / "tests" / "goldens"
METRICS = (FRECHET["fvd_stylegan_v"], FRECHET["fad_vggish"])
PAIRS = ("frechet", "sets", "front_ends", "video", "sync")
PACKAGES = ("torch", "scipy", "torchmetrics", "torchvggish", "torchlibrosa", "python_speech_features")
COUNTS = (10, 100)
WORKERS = (0, 1)


def peak_mib() -> float:
    """Largest resident size of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def pairs(section: str) -> list[dict[str, Any]]:
    """Each comparison of a section: seconds of CPU of the quickest run of either side."""
    from evaluation_pairs import SECTIONS

    found = []
    for pair in SECTIONS[section]():
        sides: dict[str, list[float]] = {"ours": [], "theirs": []}
        results: dict[str, Any] = {}
        for _ in range(pair.repeats + (pair.repeats > 1)):  # the first also loads and plans
            for side, call in (("ours", pair.ours), ("theirs", pair.theirs)):
                began = time.process_time()
                results[side] = call()
                sides[side].append(time.process_time() - began)
        found.append(
            {
                "what": pair.what,
                "instead": pair.instead,
                "ours": min(sides["ours"]),
                "theirs": min(sides["theirs"]),
                "apart": pair.apart(results["ours"], results["theirs"]),
            }
        )
    return found


def intervals() -> list[dict[str, Any]]:
    """What the interval of a Fréchet distance takes, of 200 resamples."""
    found = []
    for size, clips, rows in ((128, 1000, 10), (400, 1024, 1), (2048, 256, 1)):
        drawn = torch.Generator().manual_seed(size)
        x, y = torch.randn(2, clips * rows, size, generator=drawn, dtype=torch.float64)
        clip_N = torch.arange(clips).repeat_interleave(rows)
        began = time.process_time()
        frechet_interval(x, clip_N, y, clip_N, generator(0, "benchmark"))
        found.append({"size": size, "clips": clips, "rows": rows, "s": time.process_time() - began})
    return found


def clips_in(
    folder: Path, count: int, frames: int, height: int, width: int, fps: float = 24.0
) -> list[FileItem]:
    """Clips with their sound, of which every tenth is the same file under another name."""
    items = []
    for number in range(count):
        path = folder / f"c{number:03}.mp4"
        if number < 10:
            pictures = torch.from_numpy(clip(frames, height, width, number))
            sound = torch.from_numpy(wave(16000, frames / fps, number)).float() / 32768
            write_mp4(path, pictures, fps, sound, 16000)
        else:
            os.link(folder / f"c{number % 10:03}.mp4", path)
        items.append(FileItem(path, path.stem))
    return items


def write_generated_weights(folder: Path) -> None:
    """I3D and VGGish under their published names, with generated weights."""
    torch.save(weights(GOLDENS / "i3d_keys.txt.gz"), folder / i3d.FILE.name)
    torch.save(weights(GOLDENS / "vggish_keys.txt.gz"), folder / vggish.FILE.name)
    os.environ[WEIGHTS_FOLDER] = str(folder)


def overlap() -> list[dict[str, Any]]:
    """Wall seconds of FVD and FAD of large clips, decoded by another thread or by the one that computes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_generated_weights(folder)
        items = clips_in(folder, 6, 24, 704, 1280)
        seconds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
        for _ in range(3):
            for workers in WORKERS:
                began = time.perf_counter()
                options = ScoringOptions(workers=workers, resamples=False)
                score_items(items, items[:2], METRICS, options)
                seconds[workers].append(time.perf_counter() - began)
    return [{"workers": workers, "s": min(each)} for workers, each in seconds.items()]


def memory(count: int) -> list[dict[str, Any]]:
    """The largest resident size after so many clips."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_generated_weights(folder)
        items = clips_in(folder, count, 12, 352, 640, fps=12.0)
        before = peak_mib()
        began = time.perf_counter()
        score_items(items, items[:10], METRICS, ScoringOptions(resamples=False))
        return [{"count": count, "before": before, "peak": peak_mib(), "s": time.perf_counter() - began}]


def run(part: str) -> list[dict[str, Any]]:
    """The results of a part, here."""
    if part in PAIRS:
        return pairs(part)
    if part.startswith("memory"):
        return memory(int(part.removeprefix("memory")))
    return {"intervals": intervals, "overlap": overlap}[part]()


def in_a_process(part: str) -> list[dict[str, Any]]:
    """The results of a part, in a fresh process of one thread."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", part]
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(command, env=os.environ | one, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} failed: {done.stderr.strip().splitlines()[-1:]}")
    results: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return results


def report(found: dict[str, list[dict[str, Any]]]) -> str:
    """The tables as Markdown."""
    versions = ", ".join(f"{name} {version(name).split('+')[0]}" for name in PACKAGES)
    lines = [
        "# ovi-eval: speed beside other packages, and what many clips take",
        "",
        f"`python benchmarks/evaluation.py`: {os.cpu_count()} cores ({platform.machine()}), one thread, no GPU, "
        f"load average {os.getloadavg()[2]:.0f}; {versions}.",
        "",
    ]
    compared = [row for section in PAIRS for row in found.get(section, [])]
    if compared:
        lines += [
            "Seconds of CPU of the quickest run, both sides in turn in one process on the same input. Apart: largest "
            "difference of the results over the largest value, where nothing else is said.",
            "",
            "| what | s ours | instead of | s instead | ratio | apart |",
            "|---|---|---|---|---|---|",
        ]
    lines += [
        f"| {row['what']} | {row['ours']:.4f} | {row['instead']} | {row['theirs']:.4f} "
        f"| {row['theirs'] / row['ours']:.1f} | {row['apart']} |"
        for row in compared
    ]
    if "intervals" in found:
        lines += ["", "95 % interval of a Fréchet distance, 200 resamples of clips:", ""]
        lines += ["| features | clips in either set | rows a clip | s |", "|---|---|---|---|"]
        lines += [f"| {r['size']} | {r['clips']} | {r['rows']} | {r['s']:.1f} |" for r in found["intervals"]]
    if "overlap" in found:
        alone = found["overlap"][0]["s"]
        lines += [
            "",
            "FVD and FAD of 6 clips of 24 frames, 1280x704, and 2 of reference: wall seconds of the quickest of three, "
            "the networks on one thread, with decoding threads beside it. A busy machine stretches both, and gives "
            "two threads more of itself than one:",
            "",
            "| decoding threads | s | ratio |",
            "|---|---|---|",
        ]
        lines += [f"| {r['workers']} | {r['s']:.1f} | {alone / r['s']:.2f} |" for r in found["overlap"]]
    sizes = [row for count in COUNTS for row in found.get(f"memory{count}", [])]
    if sizes:
        lines += [
            "",
            "FVD and FAD of clips of 12 frames, 640x352, one decoding thread: largest resident size of the process:",
            "",
            "| clips | before, MiB | peak, MiB | s |",
            "|---|---|---|---|",
        ]
        lines += [f"| {r['count']} | {r['before']:.0f} | {r['peak']:.0f} | {r['s']:.0f} |" for r in sizes]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures what the command line names."""
    parts = [*PAIRS, "intervals", "overlap", *(f"memory{count}" for count in COUNTS)]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=parts, help="some parts; nothing is written without --out"
    )
    parser.add_argument(
        "--out", type=Path, help="where to write; evaluation.md beside this file for all parts"
    )
    parser.add_argument("--part", choices=parts, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        torch.set_num_threads(1)
        print(json.dumps(run(args.part)))
        return
    chosen = args.only or parts
    text = report({part: in_a_process(part) for part in track(chosen, "measuring", transient=True)})
    print(text)
    out = args.out or (None if args.only else HERE / "evaluation.md")
    if out is not None:
        write_whole(out, text)


if __name__ == "__main__":
    main()
