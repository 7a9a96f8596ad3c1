"""What it costs to train with parts given, and what sampling saves beside a given modality; writes every_direction.md.

    python benchmarks/every_direction.py                          both tables on this machine's CPU, one thread
    python benchmarks/every_direction.py --sizes tiny --rounds 2 --processes 1   one size, leaves the page alone
    python benchmarks/every_direction.py --seams runs/any/last    where windows of a run's long clips meet (ball world)
    python benchmarks/every_direction.py --full-width             kernels and bytes by role at full width, rehearsed

All cases of a table take turns in one process, step by step or clip by clip, so that what else the machine does falls
on all of them; a ratio is of the same turn, and the table has medians, for training over several processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, track
from torch import Tensor
from training_loops import COMMON, Plain, compose_train

from ovi_lab.common.seeding import generator_for
from ovi_lab.common.sizes import GIB
from ovi_lab.flow import SampledLatents, SamplerSettings, Texts, noise_batch, sample
from ovi_lab.models import Given
from ovi_lab.models.config import Modality
from ovi_lab.rehearsal.run import rehearse
from ovi_lab.sampling.long_clips import seam_jumps
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.pipeline import OviPipeline
from ovi_lab.sampling.requests import Request
from ovi_lab.sampling.seams import Jump, picture_jumps, sound_jumps
from sampling import HERE, NEGATIVE, PROMPT, SIZES, build, write_section  # beside this file

ROLES = (
    "joint",
    "independent",
    "video_given",
    "audio_given",
    "first_frame",
    "beginning",
    "span",
    "audio_alone",
)
"""Alone, beside the mixtures `paper` and `any`."""
TRAINED: dict[str, tuple[int, tuple[int, ...], int, int]] = {
    "tiny": (16, (16, 2, 2), 81, 8),
    "small_ovi": (2, (31, 6, 6), 157, 120),
}
"""Clips a batch, latent frames, rows and columns, audio tokens, text tokens."""
FUSIONS = ("bidirectional", "video_to_audio", "audio_to_video")


class TaskLoop(Plain):
    """Training steps with the loss of the task itself, roles and the log's bins included."""

    def loss(self, batch: Mapping[str, Any], purpose: Sequence[int | str]) -> Tensor:
        """See `FlowMatchingTask.losses`."""
        drawn = self.timesteps.sample(len(batch["id"]), generator_for(*purpose, "timesteps"))
        sigmas = dict(zip(("video", "audio"), drawn, strict=True))
        loss = self.task.losses(batch, sigmas, purpose, train=True)[0]
        self.task.train_bins.end_step()
        return loss


@dataclass
class Measured:
    """Seconds of one case, turn by turn, of the clock and of the processor."""

    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, work: Callable[[], object]) -> None:
        cpu, clock = time.process_time(), time.perf_counter()
        work()
        self.clock.append(time.perf_counter() - clock)
        self.cpu.append(time.process_time() - cpu)

    def against(self, other: Measured) -> tuple[float, float]:
        """Medians of the ratios turn by turn, of the clock and of the processor."""
        pairs = ((self.clock, other.clock), (self.cpu, other.cpu))
        clock, cpu = (statistics.median(a / b for a, b in zip(*pair, strict=True)) for pair in pairs)
        return clock, cpu


def loops(size: str, roles: Sequence[str]) -> dict[str, TaskLoop]:
    """A loop for each mixture and for each of these roles, all over the same batch."""
    clips, (f, h, w), audio, text = TRAINED[size]
    g = torch.Generator().manual_seed(0)
    made: dict[str, TaskLoop] = {}
    for name in ("paper", "any", *roles):
        own = [f"roles={name}"]
        if name in roles:
            own = ["roles=paper", "roles.joint=0", f"roles.{name}=1"]
        leading = "0.25" if size == "small_ovi" else "1.0"
        config = compose_train(
            [*COMMON, f"model={size}", "~text", "task.text_encoder=null", *own, f"roles.leading={leading}"]
        )
        v, a = config.model.video, config.model.audio
        batch = {
            "id": [str(n) for n in range(clips)],
            "text": [torch.randn(text, v.text_dim, generator=g) for _ in range(clips)],
            "video": torch.randn(clips, v.in_dim, f, h, w, generator=g),
            "audio": torch.randn(clips, audio, a.in_dim, generator=g),
        }
        made[name] = TaskLoop(config, repeat(batch))
    return made


def rotated(cases: Sequence[tuple[Any, Measured]], turn: int) -> list[tuple[Any, Measured]]:
    """The cases of a turn, each turn beginning with another one, and each second turn backwards."""
    first = turn % len(cases)
    return [*cases[first:], *cases[:first]][:: 1 if turn % 2 else -1]


def of_training(size: str, roles: Sequence[str], turns: int) -> dict[str, Measured]:
    """Training steps of each mixture and role in this process."""
    cases = {name: (loop, Measured()) for name, loop in loops(size, roles).items()}
    for loop, _ in cases.values():
        loop.step()  # AdamW makes its state
    for turn in range(turns):
        # another order each turn: no case always follows the same one
        for loop, measured in rotated(list(cases.values()), turn):
            measured.add(loop.step)
    return {name: measured for name, (_, measured) in cases.items()}


def in_processes(size: str, turns: int, processes: int, advance: Callable[[], None]) -> list[str]:
    """Rows of the first table: the turns of several processes, one after the other."""
    cases: dict[str, Measured] = {}
    for _ in range(processes):
        command = [sys.executable, __file__, "--one-process", size, *ROLES, "--rounds", str(turns)]
        found = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        for name, measured in json.loads(found.splitlines()[-1]).items():
            own = cases.setdefault(name, Measured())
            own.clock += measured["clock"]
            own.cpu += measured["cpu"]
        advance()
    rows = []
    for name, measured in cases.items():
        clock, cpu = measured.against(cases["paper"])
        label = f"`roles={name}`" if name in ("paper", "any") else f"`{name}` alone"
        rows.append(
            f"| {size} | {label} | {1e3 * statistics.median(measured.clock):.1f} | {clock:.3f} "
            f"| {1e3 * statistics.median(measured.cpu):.1f} | {cpu:.3f} |"
        )
    return rows


GIVEN: tuple[tuple[str, Modality | None, bool], ...] = (
    ("both generated", None, True),
    ("picture given", "video", False),
    ("picture given, its unchanging work kept", "video", True),
    ("sound given", "audio", False),
    ("sound given, its unchanging work kept", "audio", True),
)
"""What is given, and whether what no step changes is kept."""


class GivenClip:
    """One clip of a model whose towers read each other in one direction or both."""

    def __init__(self, size: str, direction: str, steps: int) -> None:
        self.model = build(size, "cpu", torch.float32, fusion={"direction": direction})
        towers, spec = self.model.tower_configs, SIZES[size]
        self.noise: dict[Modality, Tensor] = {
            "video": noise_batch([0], (towers["video"].in_dim, *spec["video"]), "video"),
            "audio": noise_batch([0], (spec["audio"], towers["audio"].in_dim), "audio"),
        }
        self.lengths: dict[Modality, int] = {"video": spec["video"][0], "audio": spec["audio"]}
        g = torch.Generator().manual_seed(0)
        width, longest = towers["video"].text_dim, towers["video"].text_len
        self.texts = Texts(
            *([torch.randn(min(n, longest), width, generator=g)] for n in (PROMPT, NEGATIVE, NEGATIVE))
        )
        self.settings = {"video_guidance": 4.0, "audio_guidance": 3.0, "steps": steps}
        self.latents: dict[tuple[Modality | None, bool], SampledLatents] = {}

    def make(self, modality: Modality | None, keep: bool, **settings: Any) -> None:
        """Sample it with that modality given."""
        given = {} if modality is None else {modality: np.ones((1, self.lengths[modality]), dtype=bool)}
        self.latents[modality, keep] = sample(
            self.model,
            self.noise,
            self.texts,
            SamplerSettings(**{**self.settings, "cache_given": keep, **settings}),
            given=Given(**given),
            clean=self.noise,
        )


def of_sampling(size: str, steps: int, rounds: int, advance: Callable[[], None]) -> list[str]:
    """Rows of the second table; stops where keeping changes a latent."""
    rows = []
    for direction in FUSIONS:
        clip = GivenClip(size, direction, steps)
        cases = {case[0]: (partial(clip.make, *case[1:]), Measured()) for case in GIVEN}
        clip.make(None, True, steps=1)
        for turn in range(rounds):
            for work, measured in rotated(list(cases.values()), turn):
                measured.add(work)
            advance()
        for modality in ("video", "audio"):
            kept, anew = (clip.latents[modality, keep] for keep in (True, False))
            if not all(torch.equal(getattr(kept, m), getattr(anew, m)) for m in ("video", "audio")):
                raise SystemExit(f"{direction}, {modality} given: what is kept changes the latents")
        full = cases["both generated"][1]
        for title, (_, measured) in cases.items():
            clock, cpu = measured.against(full)
            saved = ""
            if title.endswith("kept"):
                saved = f"{1 - measured.against(cases[title.partition(',')[0]][1])[1]:.1%}"
            rows.append(
                f"| `{direction}` | {title} | {statistics.median(measured.clock):.2f} | {clock:.2f} "
                f"| {statistics.median(measured.cpu):.2f} | {cpu:.2f} | {saved} |"
            )
    return rows


def section(
    sizes: Sequence[str], rounds: int, processes: int, sampled: str, steps: int, clips: int, load: float
) -> str:
    """The page's section of this machine."""
    with Progress(transient=True) as bar:
        work = bar.add_task("measuring", total=len(sizes) * processes + len(FUSIONS) * clips)

        def advance() -> None:
            bar.advance(work)

        training = [row for size in sizes for row in in_processes(size, rounds, processes, advance)]
        sampling = of_sampling(sampled, steps, clips, advance)
    c = build(sampled, "cpu", torch.float32).tower_configs["video"]
    f, h, w = SIZES[sampled]["video"]
    _, down, across = c.patch_size or (1, 2, 2)
    of_size = ", ".join(
        f"{size} {clips} clips of {'x'.join(map(str, video))} latents and {audio} tokens"
        for size, (clips, video, audio, _) in TRAINED.items()
        if size in sizes
    )
    return f"""## CPU

`python benchmarks/every_direction.py`: {os.cpu_count()} cores ({platform.machine()}), no GPU, one thread, float32, \
PyTorch {torch.__version__.split("+")[0]}; load average {load:.1f} before, {os.getloadavg()[0]:.1f} at the end (other \
work falls on all cases alike; the processor's own seconds tell more then).

A training step (loss by the task with its roles and bins, backward, clipping, AdamW, average of weights), \
{of_size}; medians of {rounds * processes} turns, {rounds} in each of {processes} processes (where a process's memory \
lies moves its ratios by 1 % or more), ratios to `roles=paper` of the same turn:

| model | roles | ms | / paper | CPU ms | / paper |
|---|---|--:|--:|--:|--:|
{chr(10).join(training)}

A clip of {steps} steps beside a given modality: dim {c.dim}, {c.num_layers} blocks, {f * h * w // (down * across)} \
video + {SIZES[sampled]["audio"]} audio tokens, guidance 4 and 3 with a negative prompt, {clips} turns. Ratios to both \
generated by the same model; saved is of the processor's seconds, against the same with `cache_given=false`. Latents \
with and without it were equal to the bit.

| fusion | | s a clip | / both | CPU s | / both | saved |
|---|---|--:|--:|--:|--:|--:|
{chr(10).join(sampling)}
"""


def seams(run: str, clips: int) -> str:
    """The section of long clips of a run of the ball world, beside clips that know nothing of each other."""
    pipeline = OviPipeline.load(open_bundle(run), SamplerSettings())
    formats, prompt = pipeline.parts.formats, "a red ball bounces three times low drum"
    once = formats.frames / formats.fps
    apart: dict[str, list[Jump]] = {"video": [], "audio": []}
    for seed in range(clips):
        made = [
            pipeline.make(pipeline.plan(Request("a", prompt, seed=1000 * (1 + seed) + k))) for k in range(4)
        ]
        at = range(1, len(made))
        frames_THWC = torch.cat([clip.frames_THWC for clip in made])
        wave_S = torch.cat([clip.wave_S for clip in made])
        each = len(made[0].frames_THWC), len(made[0].wave_S)
        apart["video"] += picture_jumps(frames_THWC, formats.fps, [k * each[0] for k in at])
        apart["audio"] += sound_jumps(wave_S, formats.sample_rate, [k * each[1] for k in at])
    rows = [_seam_row("four clips one after the other", apart)]
    for overlap in (once / 4, once / 2):
        found: dict[str, list[Jump]] = {"video": [], "audio": []}
        for seed in range(clips):
            plan = pipeline.plan(Request("a", prompt, seed=seed, seconds=4 * once, overlap=overlap))
            clip, windows = pipeline.make(plan), plan.windows
            assert windows is not None
            for name, jumps in seam_jumps(windows, formats, clip.frames_THWC, clip.wave_S).items():
                found[name] += jumps
        rows.append(_seam_row(f"`seconds={4 * once:g} overlap={overlap:.2f}`", found))
    return f"""## Seams

`python benchmarks/every_direction.py --seams RUN`: {formats.name}, {clips} clips of {4 * once:.1f} s, four times \
the trained length. A jump is the mean difference to the frame before, or the change of the spectrum over 20 ms, over \
the median of these elsewhere in the clip: the median over seams and, in brackets, the ninth tenth.

| | seams | picture | sound |
|---|--:|--:|--:|
{chr(10).join(rows)}
"""


def _seam_row(title: str, found: Mapping[str, Sequence[Jump]]) -> str:
    cells = []
    for name in ("video", "audio"):
        ratios = sorted(jump.ratio for jump in found[name])
        cells.append(f"{statistics.median(ratios):.2f} ({ratios[int(0.9 * len(ratios))]:.2f})")
    return f"| {title} | {len(found['video'])} | {' | '.join(cells)} |"


FULL_WIDTH = ("joint", "first_frame", "video_given", "audio_given", "beginning", "span")


def full_width(blocks: int = 3) -> str:
    """What a training step of stage 3 calls and moves with all clips in one role, rehearsed without a GPU."""
    shares = {"joint": 0.0, "first_frame": 0.0}
    rows, first = [], None
    for role in track(FULL_WIDTH, "rehearsing"):
        own = [f"roles.{name}={share:g}" for name, share in {**shares, role: 1.0}.items()]
        depth = [f"model.{m}.num_layers={blocks}" for m in ("video", "audio")]
        overrides = ["experiment=ovi_11b_stage3", "strategy=fsdp2", *own, *depth]
        found = rehearse("training", "64x80GB", overrides)
        record, micro = found["steps"][1]["record"], found["rehearsed"]
        kernels = sum(record["kernels"][kind] for kind in ("product", "pointwise")) / micro
        products, others = (record["moved"][kind] / micro / 1e9 for kind in ("product", "pointwise"))
        now = (products + others, found["most"])
        first = first or now
        rows.append(
            f"| `{role}` alone | {kernels:,.0f} | {products:.1f} | {others:.1f} | {now[0] / first[0]:.3f} "
            f"| {found['most'] / GIB:.2f} | {now[1] / first[1]:.3f} |"
        )
    return f"""## Full width

`python benchmarks/every_direction.py --full-width`: a step of stage 3 with {blocks} of its 30 blocks, FSDP2 on 64
GPUs of 80 GB, rehearsed without one ([rehearsal.md](rehearsal.md)); kernels and bytes are those of a micro-batch of
one clip. The matrix products are the same in every role, and a GPU's time is in them and in the bytes that all else
moves. `roles=any` has one clip in ten in each of the two roles that move more.

| roles | kernels | products GB | all other GB | bytes / `joint` | most memory GiB | / `joint` |
|---|--:|--:|--:|--:|--:|--:|
{chr(10).join(rows)}
"""


INTRODUCTION = """# Every direction: training with parts given, sampling beside them

What it costs to train one model for every direction instead of for both modalities from text, and what sampling saves
where one modality is given. Each section is of one machine, measured in one run of `benchmarks/every_direction.py`.
"""


def main() -> None:
    """Measures, and writes the section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=TRAINED, default=list(TRAINED), help="of training")
    parser.add_argument("--rounds", type=int, default=6, help="training steps of each case in a process")
    parser.add_argument("--processes", type=int, default=10, help="that train, one after the other")
    parser.add_argument("--sampled", choices=[s for s in SIZES if s != "ovi_11b"], default="mid")
    parser.add_argument("--steps", type=int, default=10, help="of a clip")
    parser.add_argument("--clips", type=int, default=3, help="of each case")
    parser.add_argument("--seams", metavar="RUN", help="measure long clips of this run instead")
    parser.add_argument(
        "--full-width", action="store_true", help="rehearse a step of stage 3 in each role instead"
    )
    parser.add_argument(
        "--one-process", nargs="+", metavar="SIZE ROLE", help="train at a size in roles here; prints JSON"
    )
    parser.add_argument("--out", type=Path, help="default: every_direction.md, if nothing is left out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one_process:
        size, *roles = args.one_process
        print(
            json.dumps({name: vars(found) for name, found in of_training(size, roles, args.rounds).items()})
        )
        return
    if args.seams or args.full_width:
        text = seams(args.seams, 2 * args.clips) if args.seams else full_width()
        print(text)
        write(args.out or HERE / "every_direction.md", text)
        return
    text = section(
        args.sizes, args.rounds, args.processes, args.sampled, args.steps, args.clips, os.getloadavg()[0]
    )
    print(text)
    out = args.out or (
        HERE / "every_direction.md" if args.sizes == list(TRAINED) and args.sampled == "mid" else None
    )
    if out is not None:
        write(out, text)


def write(out: Path, text: str) -> None:
    if not out.is_file():
        out.write_text(INTRODUCTION)
    write_section(out, text)


if __name__ == "__main__":
    main()
