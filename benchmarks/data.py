"""What a clip costs in `ovi-data build`: by part and step, with more videos, and with two workers; writes data.md.

    python benchmarks/data.py                       several minutes of two CPU cores; OVI_EVAL_WEIGHTS for more steps
    python benchmarks/data.py --videos 1 2          other numbers of videos, and no data.md unless --out is given

Parts are timed in one process with one thread, by its CPU seconds, which another program on the machine changes little.
Memory and workers are those of `ovi-data build` as a user starts it: its process and those that it starts.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from packing import source
from rich.progress import Progress

from ovi_lab.data.build.items import _members
from ovi_lab.data.build.reading import clips_of, survey
from ovi_lab.data.build.recipe import ClipForm
from ovi_lab.data.build.steps import STEPS

VIDEOS = [2, 8]
SECONDS = 11
"""Of a video: two clips of 121 frames at 24 fps, and a remainder."""
SIZE = (720, 1280)
LIGHT = ("motion", "loudness", "speech", "fingerprints")
"""Steps of the builds whose memory and workers are measured: those that need no files."""


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process in a call, and what it gives."""
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def parts(file: Path, form: ClipForm, advance: Callable[[], None]) -> tuple[dict[str, float], int]:
    """CPU seconds of each part for one video, and its clips."""
    steps = [kind() for kind in STEPS.values()]
    steps = [step for step in steps if step.missing() is None]
    for step in steps:
        step.setup()
    spent: dict[str, float] = defaultdict(float)
    spent["survey: scenes and bars"], _ = cpu(lambda: survey(file))
    advance()
    clips = clips_of(file, file.name, "a", form)
    count = 0
    # the survey is made again within the first clip's reading: it is taken off
    spent["reading: decode, scale, resample"] -= spent["survey: scenes and bars"]
    while True:
        seconds, clip = cpu(lambda: next(clips, None))
        spent["reading: decode, scale, resample"] += seconds
        if clip is None:
            break
        count += 1
        for step in steps:
            spent[f"step {step.name}"] += cpu(lambda step=step, clip=clip: step.process([clip]))[0]
        spent["storing: H.264 and AAC"] += cpu(lambda clip=clip: _members(clip, {}))[0]
        advance()
    return dict(spent), count


def whole(folder: Path, recipe: Path, workers: int) -> tuple[float, float]:
    """Seconds of a build, and the largest resident memory in MB of one of its processes."""
    with TemporaryDirectory() as out:
        command = [sys.executable, "-m", "ovi_lab.data.cli", "build", str(folder), f"{out}/s"]
        began = time.monotonic()
        child = Popen(
            [*command, "--recipe", str(recipe), "--workers", str(workers)], stdout=DEVNULL, stderr=DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
        return time.monotonic() - began, usage.ru_maxrss * 1024 / 1e6


def report(spent: dict[str, float], clips: int, runs: dict[tuple[int, int], tuple[float, float]]) -> str:
    """The page."""
    total = sum(spent.values())
    decoding = sum(seconds for part, seconds in spent.items() if part.startswith(("survey", "reading")))
    load = os.getloadavg()[0]
    lines = [
        "# Building shards: what a clip costs",
        "",
        f"`python benchmarks/data.py`: {os.cpu_count()} cores ({platform.machine()}), load {load:.1f}; videos of "
        f"{SECONDS} s at {SIZE[1]}x{SIZE[0]} and 24 frames/s with stereo sound, clips of 121 frames at 518,400 pixels.",
        "",
        "## By part",
        "",
        "CPU seconds of one thread, so that clips/s are those of one core. A file is decoded twice, "
        "once at small size for scenes and bars and once for its clips, whatever the number of steps: every step looks "
        "at the same decoded clip.",
        "",
        "| part | CPU s a clip | share | clips/s and core |",
        "|---|---|---|---|",
    ]
    for part, seconds in spent.items():
        lines.append(
            f"| {part} | {seconds / clips:.2f} | {seconds / total:.3f} | {clips / max(seconds, 1e-9):.2f} |"
        )
    lines += [
        f"| all of these | {total / clips:.2f} | 1 | {clips / total:.3f} |",
        "",
        f"Decoding, scaling and the survey take {decoding / total:.2f} of the time with these steps.",
        "",
        "## Memory and workers",
        "",
        f"`ovi-data build` with the steps {', '.join(LIGHT)}: seconds from start to end, and the largest process.",
        "",
        "| videos | workers | seconds | MB |",
        "|---|---|---|---|",
    ]
    lines += [f"| {n} | {w} | {seconds:.0f} | {mb:,.0f} |" for (n, w), (seconds, mb) in runs.items()]
    few, many = min(n for n, _ in runs), max(n for n, _ in runs)
    memory = runs[many, 1][1] / runs[few, 1][1]
    faster = runs[many, 1][0] / runs[many, 2][0]
    lines += [
        "",
        f"Memory with {many} videos beside {few}: {memory:.2f} times. Two workers beside one, {many} videos: "
        f"{faster:.2f} times as quick.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", type=int, nargs="+", default=VIDEOS, help="numbers of videos")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[tuple[int, int], tuple[float, float]] = {}
    with TemporaryDirectory() as folder, Progress(disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("measuring", total=3 + 2 * len(arguments.videos))
        recipe = Path(folder) / "light.yaml"
        recipe.write_text(yaml.safe_dump({"steps": list(LIGHT), "without_caption": "empty"}))
        for count in arguments.videos:
            (Path(folder) / str(count)).mkdir()
            for n in range(count):
                source(Path(folder) / str(count) / f"{n}.mp4", SECONDS, *SIZE)
        first = Path(folder) / str(arguments.videos[0]) / "0.mp4"
        spent, clips = parts(first, ClipForm(), lambda: progress.advance(task))
        for count in arguments.videos:
            for workers in (1, 2):
                runs[count, workers] = whole(Path(folder) / str(count), recipe, workers)
                progress.advance(task)
    page = report(spent, clips, runs)
    print(page)
    out = arguments.out or (Path(__file__).with_suffix(".md") if arguments.videos == VIDEOS else None)
    if out is not None:
        out.write_text(page)


if __name__ == "__main__":
    main()
