"""What `ovi-data build` costs a clip, step by step, on one worker and on two, and its memory; writes data.md.

    python benchmarks/data.py                       videos made on the spot, about a quarter of an hour of two cores
    python benchmarks/data.py --videos FOLDER       your own
    python benchmarks/data.py --videos 1 --most 2 --longest 4   fewer, without touching data.md unless --out is given

Steps are timed in one process, clip by clip and all in turn, in seconds of the processor over all its threads. Builds
are the command itself, in processes of their own, with one worker and with two by turns; memory is watched in a longer
one. Steps whose weights are not here are left out and named; OVI_EVAL_WEIGHTS=DIR brings them in.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from rich.progress import Progress

from ovi_eval.clips.writing import write_mp4
from ovi_eval.common.files import write_whole
from ovi_lab.common.seeding import generator_for
from ovi_lab.data.build.items import WORK, stored_members
from ovi_lab.data.build.reading import clips_of, survey
from ovi_lab.data.build.recipe import Recipe, load_recipe, read_recipe
from ovi_lab.data.worlds.bouncing_ball import BouncingBall

HERE = Path(__file__).resolve().parent
FURTHER = ("speech_quality", "text")
"""Steps beside those of the recipe `paper` that need no weights but a package's."""
SIZE, FPS, SECONDS, RATE = (720, 1280), 24.0, 11.0, 48_000
FORM: dict[str, Any] = {}
"""Of the clips, where it is not the recipe's."""


def make_videos(folder: Path, count: int) -> None:
    """Videos of two scenes with sound: a moving texture, lighter in the second, and the sounds of the ball world."""
    frames, (height, width) = int(FPS * SECONDS), SIZE
    world = BouncingBall().render(range(count), 1)
    for n in range(count):
        g = generator_for("benchmark of the data pipeline", n)
        coarse_CHW = torch.rand(3, height // 16, width // 8, generator=g)
        wide_CHW = torch.nn.functional.interpolate(coarse_CHW[None], (height, 2 * width), mode="bicubic")[0]
        picture_HWC = (wide_CHW.clamp(0, 1) * 180).to(torch.uint8).permute(1, 2, 0).contiguous()
        shown = []
        for t in range(frames):
            left = 4 * t % width
            shown.append(picture_HWC[:, left : left + width] // (2 if t < frames // 2 else 1))
        longer_S = world.waves_NS[n].repeat(math.ceil(SECONDS * world.sample_rate / world.waves_NS.shape[1]))
        factor = RATE / world.sample_rate
        sound_S = torch.nn.functional.interpolate(longer_S[None, None], scale_factor=factor, mode="linear")[
            0, 0
        ]
        sound_S = sound_S[: int(RATE * SECONDS)]
        write_mp4(folder / f"v{n:03d}.mp4", torch.stack(shown), FPS, sound_S, RATE, enlarge_to=0)


def recipe_here() -> tuple[dict[str, Any], list[str]]:
    """The clips and steps of the recipe `paper` with further steps, as far as they can run here, in plain values; the
    steps that cannot. No bounds, so that every clip is stored."""
    paper = load_recipe("paper")
    steps = {**paper.steps, **{name: {} for name in FURTHER}}
    lacking = [step.name for step in replace(paper, steps=steps).make_steps() if step.missing() is not None]
    steps = {name: dict(settings) for name, settings in steps.items() if name not in lacking}
    return {"clips": {**asdict(paper.clips), **FORM}, "steps": steps, "without_caption": "empty"}, lacking


@dataclass
class Costs:
    """Seconds of the processor by what they were spent on, a number for each clip."""

    spent: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str, clips: int = 1) -> Iterator[None]:
        """Counts the block; what is done once for several clips is shared over them."""
        before = time.process_time()
        yield
        self.spent.setdefault(name, []).extend([(time.process_time() - before) / clips] * clips)


DECODING = ("decoding for scenes and bars", "decoding to the clips' form")


def of_steps(videos: Sequence[Path], recipe: Recipe, advance: Callable[[], None]) -> Costs:
    """Costs of every clip of the videos, after one clip that is not counted."""
    steps = recipe.make_steps()
    for step in steps:
        step.setup()
        step.process([next(clips_of(videos[0], "first", "first", recipe.clips))])
    costs = Costs({name: [] for name in DECODING})
    for video in videos:
        before = time.process_time()
        survey(video, recipe.clips.scenes)
        surveyed = time.process_time() - before
        clips, before = 0, time.process_time()
        reading = clips_of(video, video.name, video.stem, recipe.clips)
        for clip in reading:
            spent = time.process_time() - before
            if clips == 0:
                spent -= surveyed  # `clips_of` surveys as well
            costs.spent[DECODING[1]].append(spent)
            clips += 1
            with costs.of("frames made small for the steps"):
                clip.small()
            for step in steps:
                with costs.of(f"step `{step.name}`"):
                    step.process([clip])
            with costs.of("encoding of a kept clip"):
                stored_members(clip, {})
            before = time.process_time()
        costs.spent[DECODING[0]].extend([surveyed / clips] * clips)
        advance()
    return costs


@dataclass(frozen=True)
class Run:
    """One build in processes of its own."""

    seconds: float
    cpu_seconds: float
    """Of all its processes."""
    megabytes: list[float]
    """The most that its largest process had in memory at any moment up to the end of each video, and of the build."""

    @property
    def most(self) -> float:
        """The most at any moment."""
        return self.megabytes[-1]


class Watched:
    """The processes below one, looked at ten times a second: what the system tells of a child that has ended counts
    the memory of the process that started it, and leaves out workers of another parent."""

    def __init__(self, process: int) -> None:
        self.process, self.session = process, os.getpgid(process)
        self.kilobytes: dict[int, int] = {}
        self.ticks: dict[int, int] = {}

    def look(self) -> None:
        """Notes the largest memory and the time of each process of the group."""
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                facts = (folder / "stat").read_text().rpartition(")")[2].split()
                status = (folder / "status").read_text()
            except OSError:
                continue  # it has ended
            if int(facts[2]) != self.session or "VmHWM:" not in status:
                continue
            own = int(folder.name)
            self.kilobytes[own] = int(status.partition("VmHWM:")[2].split()[0])
            self.ticks[own] = int(facts[11]) + int(facts[12])


def run_build(videos: Path, recipe: Path, workers: int, advance: Callable[[], None] = lambda: None) -> Run:
    """Builds into a fresh folder; `advance` is called for each video. Raises SystemExit where the command fails."""
    command = [sys.executable, "-m", "ovi_lab.data.cli", "build", str(videos)]
    with TemporaryDirectory() as out:
        options = ["--recipe", str(recipe), "--workers", str(workers)]
        begin = time.perf_counter()
        build = subprocess.Popen(
            [*command, f"{out}/shards", *options], stdout=subprocess.DEVNULL, process_group=0
        )
        watched, megabytes = Watched(build.pid), []
        finished = "?" * 20 + ".json"  # a file a source, named by its digest
        ended = False
        while not ended:
            ended = build.poll() is not None
            watched.look()
            while len(megabytes) < len(list(Path(out, "shards", WORK).glob(finished))):
                megabytes.append(max(watched.kilobytes.values()) / 1024)
                advance()
            time.sleep(0 if ended else 0.1)
        seconds = time.perf_counter() - begin
        if build.returncode:
            raise SystemExit(f"ovi-data build failed with exit code {build.returncode}")
        cpu = sum(watched.ticks.values()) / os.sysconf("SC_CLK_TCK")
        return Run(seconds, cpu, [*megabytes, max(watched.kilobytes.values()) / 1024])


def builds(
    videos: Sequence[Path],
    plain: Mapping[str, Any],
    most: int,
    rounds: int,
    longest: int,
    advance: Callable[[], None],
) -> tuple[list[list[Run]], Run]:
    """Builds of `most` videos with one worker and with two, by turns; and one of `longest` videos with one."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(dict(plain)))
        whole = copies(videos, folder / "whole", most)
        by_workers: list[list[Run]] = [[], []]
        for _ in range(rounds):
            for workers, runs in enumerate(by_workers, start=1):
                runs.append(run_build(whole, recipe, workers, advance))
        return by_workers, run_build(copies(videos, folder / "longest", longest), recipe, 1, advance)


def copies(videos: Sequence[Path], folder: Path, count: int) -> Path:
    """A folder of so many files, the videos over and over."""
    folder.mkdir()
    for n in range(count):
        source = videos[n % len(videos)]
        shutil.copyfile(source, folder / f"c{n:04d}{source.suffix}")
    return folder


def page(
    about: str,
    costs: Costs,
    lacking: Sequence[str],
    by_workers: Sequence[Sequence[Run]],
    long: Run,
    most: int,
    clips: float,
) -> str:
    """data.md; `long`: the longest build, `most`: videos of the others, `clips` of a video."""
    medians = {name: statistics.median(seconds) for name, seconds in costs.spent.items()}
    counted, total = len(costs.spent[DECODING[0]]), sum(medians.values())
    decoding = sum(medians[name] for name in DECODING) / total
    parts = [
        f"| {name} | {1e3 * each:,.0f} | {each / total:.1%} | {1 / max(each, 1e-6):,.2f} |"
        for name, each in medians.items()
    ]
    ratios = [one.seconds / two.seconds for one, two in zip(*by_workers, strict=True)]
    workers = []
    for number, runs in enumerate(by_workers, start=1):
        best = min(runs, key=lambda run: run.seconds)
        speed = most * clips / best.seconds
        workers.append(
            f"| {number} | {best.seconds:.1f} | {best.cpu_seconds:.1f} | {speed:.2f} | {best.most:,.0f} |"
        )
    counts = [2**power for power in range(len(long.megabytes).bit_length()) if 2**power < len(long.megabytes)]
    memory = [f"| {count} | {long.megabytes[count - 1]:,.0f} |" for count in counts]
    grown = long.most / long.megabytes[min(2, len(long.megabytes)) - 1] - 1
    left_out = f" Not here and left out: {', '.join(f'`{name}`' for name in lacking)}." if lacking else ""
    frames = FORM.get("frames", 121)
    further = " and ".join(f"`{name}`" for name in FURTHER)
    return f"""# From videos to shards: what a clip costs

{about}

## A clip, step by step

The recipe `paper` with {further}: medians over {counted} clips of {frames} frames. A video is decoded twice, for its \
scenes and for its clips, whatever the number of steps: {decoding:.0%} of all.{left_out}

| part | CPU ms a clip | share | clips/s a core |
|---|--:|--:|--:|
{chr(10).join(parts)}
| **all** | {1e3 * total:,.0f} | 100% | {1 / total:.2f} |

## Workers

`ovi-data build` of {most} videos, from the start of the command to the shards, without bounds so that every \
clip is stored; the best of {len(ratios)}. Two workers are {statistics.median(ratios):.2f} times as fast as one.

| workers | s | CPU s | clips/s | MB at most of the largest process |
|---|--:|--:|--:|--:|
{chr(10).join(workers)}

## Memory

One worker, which holds a clip at a time, in one build of {len(long.megabytes) - 1} videos: the most that was in \
memory at any moment up to the end of a video. In the end it is {grown:+.1%} of what it was after two videos.

| videos | MB at most |
|--:|--:|
{chr(10).join(memory)}
"""


def main() -> None:
    """Measures, and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", default="2", help="a folder of videos, or how many to make (2)")
    parser.add_argument("--most", type=int, default=4, help="videos of the largest build (4)")
    parser.add_argument(
        "--longest", type=int, default=32, help="videos of the build whose memory is watched (32)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="builds of each number of workers (1)")
    parser.add_argument("--out", type=Path, help="file to write; data.md where nothing else is asked for")
    arguments = parser.parse_args()
    most, rounds, longest = arguments.most, arguments.rounds, arguments.longest
    as_documented = (arguments.videos, most, rounds, longest) == ("2", 4, 1, 32)
    torch.set_num_threads(1)
    plain, lacking = recipe_here()
    with TemporaryDirectory() as made, Progress(transient=True) as bar:
        if arguments.videos.isdecimal():
            make_videos(Path(made), int(arguments.videos))
            videos, what = (
                sorted(Path(made).iterdir()),
                f"videos of {SECONDS:g} s, {SIZE[1]}x{SIZE[0]}, synthetic",
            )
        else:
            videos = sorted(p for p in Path(arguments.videos).iterdir() if p.suffix == ".mp4")
            what = f"{len(videos)} videos of your own"
        work = bar.add_task("measuring", total=len(videos) + 2 * rounds * most + longest)

        def advance() -> None:
            bar.advance(work)

        costs = of_steps(videos, read_recipe("benchmark", plain), advance)
        by_workers, long = builds(videos, plain, most, rounds, longest, advance)
    about = (
        f"`python benchmarks/data.py`: {os.cpu_count()} cores ({platform.machine()}), no GPU, one thread a process, "
        f"PyTorch {torch.__version__.split('+')[0]}; {what}, in the page cache; load average "
        f"{os.getloadavg()[0]:.1f} at the end."
    )
    if os.getloadavg()[0] > (os.cpu_count() or 1) + 1:
        about += " Others were at work on these cores: compare CPU seconds, not seconds."
    clips = len(costs.spent[DECODING[0]]) / len(videos)
    text = page(about, costs, lacking, by_workers, long, most, clips)
    print(text)
    out = arguments.out or (HERE / "data.md" if as_documented else None)
    if out is not None:
        write_whole(out, text)


if __name__ == "__main__":
    main()
