"""Training as a user runs it beside a plain loop of the same arithmetic; what options save; what resuming costs.

    python benchmarks/training.py                                               this machine's CPU, one thread
    python benchmarks/training.py --device cuda --size ovi_11b --blocks 4 8     a GPU: full width, few blocks, bf16

The plain loop has no Lightning, no callbacks and no log: towers, batches, noise, loss, clipping, AdamW, schedule and
average of weights are those of the run. Both train in one process and take turns step by step, so that what else the
machine does falls on both, and the script stops where their losses differ. Each call writes its section of training.md.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hydra.utils import instantiate
from rich.progress import Progress
from training_loops import (
    BALL,
    COMMON,
    LOGGED,
    SIZES,
    Clock,
    Plain,
    Turns,
    compose_train,
    composed,
    peak_of_plain,
    peak_of_run,
    run_until,
)

from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.cluster import gpu_of_device
from ovi_lab.planning.flops import count_flops
from ovi_lab.planning.job import RELEASED_CLIP
from ovi_lab.runs.run import execute
from sampling import HERE, write_section  # beside this file

CHECKPOINTING = [f"model.activation_checkpointing={c}" for c in ("none", "matmul", "attention", "full")]
OPTIONS = [*CHECKPOINTING, "freeze=ffn", "freeze=attention_only", "freeze=all_but_fusion"]


def stretches(seconds: Sequence[float]) -> list[float]:
    """Sums over `LOGGED` steps each; the first, in which all is new, is left out."""
    return [sum(seconds[i : i + LOGGED]) for i in range(LOGGED, len(seconds) - LOGGED + 1, LOGGED)]


def beside_a_plain_loop(root: Path, size: str, steps: int) -> str:
    """A row of the first table."""
    config = composed(root / size, size, steps)
    turns = Turns(Plain(config))
    execute(config, turns)
    with (root / size / "run" / "metrics.csv").open() as file:
        logged = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    worst = max(abs(a - b) for a, b in zip(logged, turns.losses[LOGGED - 1 :: LOGGED], strict=True))
    if worst > 1e-6:
        raise SystemExit(f"{size}: the losses of the two loops differ by {worst}: it is not the same work")
    ours, plain = (stretches(turns.seconds[who]) for who in ("ours", "plain"))
    ratios = [a / b for a, b in zip(ours, plain, strict=False)]
    cpu = [a / b for a, b in zip(*(stretches(turns.cpu[who]) for who in ("ours", "plain")), strict=False)]
    memory = peak_of_run(composed(root / f"{size}_memory", size, LOGGED + 1)) / peak_of_plain(
        composed(root / f"{size}_memory", size, LOGGED + 1), LOGGED + 1
    )
    model, batch = turns.plain.model, SIZES[size][0]
    tower = model.tower_configs["video"]
    step = statistics.median(ours) / LOGGED
    return (
        f"| {size}: dim {tower.dim}, {tower.num_layers} blocks, {batch} clips "
        f"| {1e3 * statistics.median(plain) / LOGGED:.1f} | {1e3 * step:.1f} "
        f"| {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) "
        f"| {statistics.median(cpu):.3f} | {batch * sum(BALL.tokens(model.tower_configs).values()) / step:,.0f} "
        f"| {memory:.3f} | {worst:.0e} |"
    )


def of_options(root: Path, size: str, rounds: int) -> Iterator[str]:
    """Rows of the second table: whole steps by what is kept and what is trained."""
    configs = {o: composed(root / "options", size, rounds + 1, o) for o in OPTIONS}
    peaks = {o: peak_of_plain(config, 3) for o, config in configs.items()}
    loops = {o: Plain(config) for o, config in configs.items()}
    seconds: dict[str, list[float]] = {o: [] for o in OPTIONS}
    for _ in range(rounds + 1):
        for option, loop in loops.items():
            began = time.perf_counter()
            loop.step()
            seconds[option].append(time.perf_counter() - began)
            loop.optimizer.zero_grad()
    for option in OPTIONS:
        ratios = [a / b for a, b in zip(seconds[option][1:], seconds[OPTIONS[0]][1:], strict=True)]
        peak = peaks[option] / peaks[OPTIONS[0]]
        yield f"| `{option}` | {statistics.median(ratios):.2f} | {peak:.2f} | {peaks[option] / 1e6:.0f} |"


def of_checkpoints(root: Path, size: str, every: int, last: int, rounds: int) -> Iterator[str]:
    """Rows of the third table: one run saves every so many steps; others begin from its first and its last."""
    folder = root / f"{size}_checkpoints"
    more = [f"checkpoint.every_n_steps={every}", "checkpoint.keep_last=-1"]
    # the run that is resumed has further to go, and is the same run
    config = composed(folder, size, last + every, *more, f"data.num_train={16 * SIZES[size][0]}")
    clock = Clock(last=last + 1)
    run_until(config, clock)
    lasted = {n: clock.ends[n] - clock.ends[n - 1] for n in sorted(clock.ends)[1:]}
    after = [n for n in lasted if n % every == 1]
    usual = statistics.median(s for n, s in lasted.items() if n not in after)
    saving = statistics.median(lasted[n] - usual for n in after)
    taken: dict[int, list[float]] = {every: [], last: []}
    for number in range(rounds):
        for position, seconds in taken.items():
            config.run_dir = str(folder / f"on_{position}_{number}")
            config.resume = str(folder / "run" / "checkpoints" / f"step_{position:06d}")
            began = time.perf_counter()
            clock = Clock(last=position + 1)
            run_until(config, clock)
            seconds.append(clock.ends[position + 1] - began)
    stored = folder / "run" / "checkpoints" / f"step_{every:06d}"
    size_mb = sum(file.stat().st_size for file in stored.rglob("*") if file.is_file()) / 1e6
    for position, seconds in taken.items():
        yield (
            f"| {size} | {size_mb:,.1f} | {1e3 * usual:,.0f} | {1e3 * saving:,.0f} | {position} "
            f"| {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) |"
        )


def on_this_cpu(names: Sequence[str], stretches_each: int, load: float) -> str:
    """The section of a CPU."""
    rounds, options = min(3, stretches_each), "small" if "small" in names else names[-1]
    with TemporaryDirectory() as name, Progress(transient=True) as bar:
        root, work = Path(name), bar.add_task("", total=2 * len(names) + 1)
        plain = []
        for size in names:
            bar.update(work, description=f"{size}: beside a plain loop")
            fewer = 1 if size == "tiny" else 2
            steps = LOGGED * (2 + max(1, stretches_each // fewer))
            plain.append(beside_a_plain_loop(root, size, steps))
            bar.advance(work)
        bar.update(work, description="options")
        by_option = list(of_options(root, options, 2 * rounds + 1))
        bar.advance(work)
        resumed: list[str] = []
        for size in names:
            bar.update(work, description=f"{size}: checkpoints")
            every, last = (20, 40 * stretches_each) if size == "tiny" else (5, 20)
            resumed += of_checkpoints(root, size, every, last, rounds)
            bar.advance(work)
    return f"""## CPU

`python benchmarks/training.py`: {os.cpu_count()} cores ({platform.machine()}), no GPU, one thread, float32, \
PyTorch {torch.__version__.split("+")[0]}; load average {load:.1f} before, {os.getloadavg()[0]:.1f} at the end (other \
work ran beside it, and falls on both sides alike).

A run as a user has it (strategy `auto`; average of weights, gradient norms, guard, throughput, progress, CSV and \
TensorBoard every {LOGGED} steps) beside the plain loop, in turn step by step: medians of stretches of {LOGGED} steps, \
each with one log, in brackets the least and the largest. CPU is the same ratio of the processor's own seconds, on a \
busy machine the more telling. Memory is of all tensors alive at the largest moment of a step. The last column is \
the largest difference of the losses.

| model and batch | plain, ms | ours, ms | ours / plain | CPU | tokens/s | memory, ours / plain | losses |
|---|--:|--:|--:|--:|--:|--:|--:|
{chr(10).join(plain)}

Whole steps of the plain loop at size {options}, against keeping and training everything; most bytes alive (weights, \
gradients, AdamW's state and the average included):

| option | time | memory | MB |
|---|--:|--:|--:|
{chr(10).join(by_option)}

A checkpoint (weights, average, optimiser, every state that the next step depends on; written and then renamed) and the\
 start of a run that goes on from it: data, model, check of the checkpoint's digests, loading, to the end of the first \
step, libraries loaded. The loader's throughput and its own time to resume, at up to 1,000,000 batches, are in \
[loader.md](loader.md).

| model | checkpoint, MB | a step, ms | saving, ms | resumed at step | seconds to the end of the next step |
|---|--:|--:|--:|--:|--:|
{chr(10).join(resumed)}
"""


def _clip(size: str) -> ClipShape:
    return RELEASED_CLIP if size == "ovi_11b" else BALL


def few_blocks(size: str, blocks: int, option: str, device: str, steps: int) -> str:
    """A row of a GPU's table: fusion training with frozen FFNs at full width and fewer blocks, one clip a step."""
    clip = _clip(size)
    text = ["~text", "task.text_encoder=null"]
    few = [f"model.{m}.num_layers={blocks}" for m in ("video", "audio")]
    frozen = [] if option.startswith("freeze=") else ["freeze=ffn"]
    config = compose_train([*COMMON, "loss=paper", f"model={size}", *text, *few, *frozen, option])
    video, audio = config.model.video, config.model.audio
    batch = {
        "id": ["0"],
        "text": [torch.randn(min(120, video.text_len), video.text_dim, device=device)],
        "video": torch.randn(1, video.in_dim, *(clip.video or ()), device=device),
        "audio": torch.randn(1, clip.audio or 0, audio.in_dim, device=device),
    }
    cuda = device.startswith("cuda")
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    head = f"| {blocks} | `{option}` "
    seconds = []
    try:
        loop = Plain(config, repeat(batch), device, torch.bfloat16)
        for _ in range(steps):
            began = time.perf_counter()
            loop.step()  # reads the loss, which waits for the device
            if cuda:
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
    except torch.cuda.OutOfMemoryError:
        return f"{head}| does not fit | | | | |"
    middle = statistics.median(seconds[2:] or seconds)
    flops = count_flops(loop.model, clip).model / middle / 1e12
    gpu = gpu_of_device(torch.cuda.get_device_name(device)) if cuda else None
    mfu = "" if gpu is None else f"{flops / gpu.tflops:.1%}"
    peak = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}" if cuda else ""
    tokens = sum(clip.tokens(loop.model.tower_configs).values()) / middle
    return f"{head}| {1e3 * middle:,.0f} | {tokens:,.0f} | {flops:,.1f} | {mfu} | {peak} |"


def with_few_blocks(size: str, blocks: Sequence[int], device: str, steps: int) -> str:
    """The section of a GPU."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "no GPU"
    cases = [(count, option) for count in blocks for option in [*CHECKPOINTING, "freeze=attention_only"]]
    with Progress(transient=True) as bar:
        rows = [few_blocks(size, *case, device, steps) for case in bar.track(cases, description="measuring")]
    config = compose_train([f"model={size}"])
    tower = config.model.video
    with torch.device("meta"):
        tokens = _clip(size).tokens(instantiate(config.model)().tower_configs)
    return f"""## {size}, few blocks, {"GPU" if device.startswith("cuda") else "CPU"}

{name}, PyTorch {torch.__version__.split("+")[0]}: fusion training at width {tower.dim} with frozen FFNs (unless \
another `freeze` is named), one clip a step, bf16 autocast over float32 weights, AdamW and average of weights, random \
latents of {" + ".join(f"{n:,} {m}" for m, n in tokens.items())} tokens. TFLOP/s and MFU are of the model's own \
operations (`planning.flops`), recomputation not included.

| blocks | option | a step, ms | tokens/s | TFLOP/s | MFU | peak GiB |
|--:|---|--:|--:|--:|--:|--:|
{chr(10).join(rows)}
"""


INTRODUCTION = """# Training: beside a plain loop, by option, resumed

Each section is of one machine, measured in one run of `benchmarks/training.py`. Where there is no section of a GPU \
below, nothing was measured on one: `--device cuda --size ovi_11b --blocks 4` adds it (towers at full width with few \
blocks, bf16, frozen FFNs: step time, MFU and memory by option); that part has run on a CPU alone so far.
"""


def main() -> None:
    """Measures what the command line names, and writes its section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of the CPU's tables")
    parser.add_argument(
        "--stretches", type=int, default=9, help="of ten steps; larger models do half as many"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--size", help="model of the table of few blocks: ovi_11b (as by default on a GPU), small or tiny"
    )
    parser.add_argument("--blocks", type=int, nargs="+", default=[4], help="so many in each tower")
    parser.add_argument("--steps", type=int, default=10, help="of each case with few blocks")
    parser.add_argument(
        "--out", type=Path, help="default: training.md beside this file, if nothing is left out"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    cuda = args.device.startswith("cuda")
    if cuda or args.size:
        section = with_few_blocks(args.size or "ovi_11b", args.blocks, args.device, args.steps)
    else:
        section = on_this_cpu(args.sizes, args.stretches, os.getloadavg()[0])
    print(section)
    out = args.out or (
        HERE / "training.md" if cuda or (not args.size and args.sizes == list(SIZES)) else None
    )
    if out is not None:
        if not out.is_file():
            out.write_text(INTRODUCTION)
        write_section(out, section)


if __name__ == "__main__":
    main()
