"""Peak memory and time of `ovi-data pack`, by how long its source is; writes packing.md.

    python benchmarks/packing.py                    a few minutes of one CPU thread
    python benchmarks/packing.py --seconds 5 20     other lengths, without touching packing.md unless --out is given

Each length is packed by a process of its own, as a user starts it, and the largest resident size of that process is
read from the kernel when it ends. Threads of the decoder count, so a machine with more cores has a larger base.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from rich.progress import Progress

LENGTHS = [10, 40, 160]
FORMS = {
    "arrays of 64x64": ["--size", "64x64", "--seconds", "5"],
    "arrays of 64x64, bars cut off": ["--size", "64x64", "--seconds", "5", "--crop-bars"],
    "mp4 of 272x480": ["--size", "272x480", "--seconds", "5", "--store", "mp4"],
    "original file": ["--store", "original"],
}


def source(
    path: Path, seconds: int, height: int = 272, width: int = 480, fps: int = 24, rate: int = 48000
) -> None:
    """A moving pattern and a tone, written as they are made."""
    pattern = np.random.default_rng(0).integers(0, 255, (height, 2 * width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "32"})
        picture.height, picture.width, picture.pix_fmt = height, width, "yuv420p"
        sound: Any = container.add_stream("aac", rate=rate, layout="stereo")
        for n in range(seconds * fps):
            left = 2 * n % width
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(pattern[:, left : left + width]), format="rgb24"
            )
            frame.pts, frame.time_base = n, Fraction(1, fps)
            container.mux(picture.encode(frame))
            if n % fps == 0:
                second = np.sin(np.arange(rate) * 2 * np.pi * 440 / rate, dtype=np.float32)
                block = av.AudioFrame.from_ndarray(np.stack([second, second]), format="fltp", layout="stereo")
                block.sample_rate, block.pts, block.time_base = rate, n // fps * rate, Fraction(1, rate)
                container.mux(sound.encode(block))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))
    path.with_suffix(".txt").write_text("a pattern that moves, and a tone")


def packed(folder: Path, options: list[str]) -> tuple[float, float]:
    """Peak resident memory in MB and seconds of packing one folder."""
    with TemporaryDirectory() as out:
        command = [sys.executable, "-m", "ovi_lab.data.cli", "pack", str(folder), f"{out}/c", *options]
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
        return usage.ru_maxrss * 1024 / 1e6, time.monotonic() - began


def report(lengths: list[int], found: dict[str, list[tuple[float, float]]]) -> str:
    """The page."""
    columns = " | ".join(f"{length} s" for length in lengths)
    lines = [
        "# Packing: memory by the length of the source",
        "",
        f"`python benchmarks/packing.py`: {os.cpu_count()} cores ({platform.machine()}), one source of 272x480 at 24 "
        "frames/s with stereo sound. Largest resident memory of the whole process in MB, which holds PyTorch and "
        "FFmpeg before it opens a file, and seconds. Clips are cut while the file is decoded, so the last column stays "
        "near 1.",
        "",
        f"| stored as | {columns} | {lengths[-1]} s / {lengths[0]} s |",
        f"|---|{'---|' * (len(lengths) + 1)}",
    ]
    for form, runs in found.items():
        cells = " | ".join(f"{peak:,.0f} MB, {seconds:.0f} s" for peak, seconds in runs)
        lines.append(f"| {form} | {cells} | {runs[-1][0] / runs[0][0]:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, nargs="+", default=LENGTHS, help="lengths of the source")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
    with TemporaryDirectory() as folder, Progress() as progress:
        task = progress.add_task("packing", total=len(FORMS) * len(arguments.seconds))
        for length in arguments.seconds:
            (Path(folder) / str(length)).mkdir()
            source(Path(folder) / str(length) / "a.mp4", length)
            for form, options in FORMS.items():
                found[form].append(packed(Path(folder) / str(length), options))
                progress.advance(task)
    page = report(arguments.seconds, found)
    print(page)
    out = arguments.out or (Path(__file__).with_suffix(".md") if arguments.seconds == LENGTHS else None)
    if out is not None:
        out.write_text(page)


if __name__ == "__main__":
    main()
