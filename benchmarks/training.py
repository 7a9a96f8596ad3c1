"""Training as a user runs it beside a plain loop of the same arithmetic; what options save; what resuming costs.

    python benchmarks/training.py                      # this machine, without a GPU: writes training.md
    python benchmarks/training.py --device cuda --size ovi_11b --blocks 4      # full width, few blocks, bf16: prints

The plain loop has no Lightning, no callbacks and no log: towers, batches, noise, loss, clipping, AdamW, schedule and
average are those of the run, and the script stops where the two do not have the same losses. Each measurement is a
process of its own; processes of both kinds take turns, and medians over all their steps are compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.progress import Progress

HERE = Path(__file__).resolve().parent
WIDTH = "model.{0}.dim={1} model.{0}.num_heads={2} model.{0}.ffn_dim={3} model.{0}.num_layers={4}"
SIZES: dict[str, list[str]] = {
    "tiny": ["model=tiny", "data.batch_size=16"],
    "dim 128, 4 blocks": [
        "model=tiny", "data.batch_size=16",
        *WIDTH.format("video", 128, 4, 512, 4).split(), *WIDTH.format("audio", 128, 4, 512, 4).split(),
    ],
    "small": ["model=small", "data.batch_size=4"],
}  # fmt: skip
COMMON = [
    "optim=adamw", "optim.factory.lr=1e-3", "evaluation=none", "samples.every_n_steps=0", "checkpoint.every_n_steps=0",
    "data.num_train=2048", "data.num_eval=16",
]  # fmt: skip
WARM = 5


def composed(overrides: Sequence[str]) -> Any:
    """The configuration of `ovi_lab.train` with these overrides."""
    from hydra import compose, initialize_config_dir

    from ovi_lab.paths import config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=[*COMMON, *overrides])


class Clock:
    """A reporter that notes when each step of training ended."""

    def __init__(self) -> None:
        self.ends: dict[int, float] = {}

    def at(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training":
            self.ends.setdefault(done, time.perf_counter())

    def close(self) -> None:
        """Nothing to close."""


def train_ours(config: Any) -> tuple[list[float], list[float]]:
    """Seconds of each step, and the losses that were logged."""
    from ovi_lab.runs.run import execute

    clock = Clock()
    execute(config, clock)
    ends = [clock.ends[step] for step in sorted(clock.ends)]
    with (Path(config.run_dir) / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    return [b - a for a, b in pairwise(ends)], losses


def train_plain(config: Any) -> tuple[list[float], list[float]]:
    """The same by a loop of our own."""
    from hydra.utils import instantiate

    from ovi_lab.optim import parameter_groups, warmup_flat_decay
    from ovi_lab.seeding import generator_for

    data, task = instantiate(config.data), instantiate(config.task)
    data.prepare_data()
    data.setup("fit")
    task.configure_model()
    settings, steps = task.optimizer_settings, int(config.trainer.max_steps)
    groups = parameter_groups(task.named_parameters(), settings["weight_decay"], settings["muon"])
    optimizer = settings["factory"](groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_flat_decay(steps, **task.schedule))
    trained = [p for p in task.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in trained]
    seconds, losses = [], []
    batches = iter(data.train_dataloader())
    for step in range(steps):
        began = time.perf_counter()
        batch = next(batches)
        purpose = (task.seed, "training", 0, step)
        sigma_video, sigma_audio = task.timesteps.sample(
            len(batch["id"]), generator_for(*purpose, "timesteps")
        )
        loss, _ = task.losses(batch, {"video": sigma_video, "audio": sigma_audio}, purpose, train=True)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.trainer.gradient_clip_val)
        optimizer.step()
        schedule.step()
        decay = min(config.ema.decay, (2 + step) / (11 + step))
        torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - decay)
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - began)
    return seconds[1:], losses


def one(kind: str, overrides: Sequence[str], steps: int, folder: Path) -> dict[str, Any]:
    """One measurement, in this process."""
    config = composed(
        [
            *overrides,
            f"trainer.max_steps={steps}",
            f"run_dir={folder / 'run'}",
            f"data.root={folder.parent / 'data'}",
        ]
    )
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, losses = (train_ours if kind == "ours" else train_plain)(config)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds[WARM:], "losses": losses, "mb": grown / 1024}


def apart(kind: str, overrides: Sequence[str], steps: int, folder: Path) -> dict[str, Any]:
    """The same in a process of its own."""
    folder.mkdir(parents=True)
    words = ["--one", kind, "--steps", str(steps), "--folder", str(folder), *overrides]
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def beside_a_plain_loop(rounds: int, steps: dict[str, int], root: Path, tick: Any) -> list[str]:
    """Rows of the first table."""
    rows = []
    for size, overrides in SIZES.items():
        found: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
        for number in range(rounds):
            for kind, measured in found.items():
                measured.append(apart(kind, overrides, steps[size], root / f"{kind}_{size[:4]}_{number}"))
                tick(f"{size}: {kind}")
        logged = found["ours"][0]["losses"]
        expected = found["plain"][0]["losses"][9::10]
        worst = max(abs(a - b) for a, b in zip(logged, expected, strict=True))
        if worst > 1e-6:
            raise SystemExit(f"{size}: the two loops differ by {worst} in their losses: not the same work")
        middle = {k: statistics.median(s for m in v for s in m["seconds"]) for k, v in found.items()}
        paired = [
            statistics.median(a["seconds"]) / statistics.median(b["seconds"])
            for a, b in zip(found["ours"], found["plain"], strict=True)
        ]
        memory = {k: statistics.median(m["mb"] for m in v) for k, v in found.items()}
        batch = next(int(o.partition("=")[2]) for o in overrides if o.startswith("data.batch_size"))
        tokens = batch * (16 * 2 * 2 + 81)
        rows.append(
            f"| {size}, {batch} clips | {1e3 * middle['plain']:.1f} | {1e3 * middle['ours']:.1f} | "
            f"{statistics.median(paired):.3f} ({min(paired):.3f} to {max(paired):.3f}) | "
            f"{tokens / middle['ours']:,.0f} | {memory['ours'] / memory['plain']:.2f} |"
        )
    return rows


def of_options(rounds: int) -> list[str]:
    """Rows of the second table: a step's time and largest memory by what is kept and what is trained."""
    from hydra.utils import instantiate

    from ovi_lab.released.live_memory import LiveMemory

    options = [
        *(f"model.activation_checkpointing={c}" for c in ("none", "matmul", "attention", "full")),
        "freeze=ffn", "freeze=attention_only", "freeze=all_but_fusion",
    ]  # fmt: skip
    tasks = {}
    for option in options:
        config = composed([*SIZES["dim 128, 4 blocks"], option])
        task = instantiate(config.task)
        task.configure_model()
        tasks[option] = task
    draws = torch.Generator().manual_seed(0)
    batch = {
        "id": [str(i) for i in range(16)],
        "caption": ["a red ball bounces three times low drum"] * 16,
        "video": torch.randn(16, 24, 16, 2, 2, generator=draws),
        "audio": torch.randn(16, 81, 12, generator=draws),
    }
    sigma = torch.linspace(0.1, 0.9, 16)

    def step(task: Any) -> None:
        loss, _ = task.losses(batch, {"video": sigma, "audio": sigma}, (0, "benchmark"), train=True)
        loss.backward()
        task.zero_grad()

    seconds: dict[str, list[float]] = {option: [] for option in options}
    for _ in range(rounds):
        for option, task in tasks.items():
            began = time.perf_counter()
            step(task)
            seconds[option].append(time.perf_counter() - began)
    rows, first = [], None
    for option, task in tasks.items():
        with LiveMemory("cpu", task) as live:
            step(task)
        middle = statistics.median(seconds[option][1:])
        first = first or (middle, live.peak)
        rows.append(f"| `{option}` | {middle / first[0]:.2f} | {live.peak / first[1]:.2f} |")
    return rows


def of_checkpoints(root: Path, positions: Sequence[int]) -> list[str]:
    """Rows of the third table: seconds from the start of a resumed run to the end of its first step, by position."""
    from ovi_lab.runs.run import execute

    rows = []
    for position in positions:
        place = [f"run_dir={root / f'at_{position}'}", f"data.root={root / 'data'}", *SIZES["tiny"]]
        execute(composed([*place, f"trainer.max_steps={position}"]), Clock())
        on = [f"run_dir={root / f'on_{position}'}", f"data.root={root / 'data'}", *SIZES["tiny"]]
        source = root / f"at_{position}" / "last"
        stored = json.loads((source / "checkpoint.json").read_text())
        clock, began = Clock(), time.perf_counter()
        config = composed([*on, f"trainer.max_steps={position + 1}"])
        _continue_as(config, source, root / f"on_{position}")
        execute(config, clock)
        first = clock.ends[position + 1] - began
        rows.append(
            f"| {position:,} | {first:.2f} | {sum(f['size'] for f in stored['files'].values()) / 1e6:.1f} |"
        )
    return rows


def _continue_as(config: Any, source: Path, run_dir: Path) -> None:
    """Have the longer run `config` go on from a checkpoint of the shorter one, which gets its configuration."""
    import hashlib
    import shutil

    from omegaconf import OmegaConf

    from ovi_lab.runs.identity import run_config

    config.resume = "last"
    target = run_dir / "checkpoints" / source.resolve().name
    shutil.copytree(source.resolve(), target)
    text = OmegaConf.to_yaml(OmegaConf.create(run_config(config)))
    (target / "config.yaml").write_text(text)
    listing = json.loads((target / "checkpoint.json").read_text())
    listing["files"]["config.yaml"] = {
        "size": len(text.encode()),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    (target / "checkpoint.json").write_text(json.dumps(listing))


def on_a_gpu(size: str, blocks: int, steps: int) -> None:
    """Prints step time, memory and MFU of fusion training with frozen FFNs at full width and fewer blocks."""
    from hydra.utils import instantiate

    from ovi_lab.planning.flops import count_flops
    from ovi_lab.planning.shapes import ClipShape

    shape = ClipShape(video=(31, 44, 46), audio=157)
    few = [f"model.{m}.num_layers={blocks}" for m in ("video", "audio")]
    for choice in ("none", "matmul", "attention", "full"):
        config = composed(
            ["task=fusion", f"model={size}", *few, "freeze=ffn", "loss=paper", "text=null", "task.text_encoder=null",
             f"model.activation_checkpointing={choice}"]
        )  # fmt: skip
        task = instantiate(config.task)
        with torch.device("cuda"):
            task.configure_model()
        task.to("cuda", torch.bfloat16)
        batch = {
            "id": ["0"],
            "caption": [""],
            "text": [torch.randn(120, 4096, device="cuda")],
            "video": torch.randn(1, 48, *shape.video, device="cuda"),
            "audio": torch.randn(1, shape.audio, 20, device="cuda"),
        }
        sigma = torch.tensor([0.5], device="cuda")
        optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-5, fused=True)
        seconds = []
        torch.cuda.reset_peak_memory_stats()
        try:
            for _ in range(steps):
                torch.cuda.synchronize()
                began = time.perf_counter()
                loss, _ = task.losses(batch, {"video": sigma, "audio": sigma}, (0, "benchmark"), train=True)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
        except torch.cuda.OutOfMemoryError:
            print(f"{choice}: does not fit")
            continue
        flops = count_flops(task.model, shape)
        middle = statistics.median(seconds[2:])
        print(
            f"{choice}: {1e3 * middle:.0f} ms, {flops.model / middle / 1e12:.0f} TFLOP/s of the model, "
            f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, {torch.cuda.get_device_name()}"
        )
        del task, optimizer
        torch.cuda.empty_cache()


def report(
    rounds: int, plain: Sequence[str], options: Sequence[str], resumed: Sequence[str], load: float
) -> str:
    """The tables as Markdown."""
    return "\n".join(
        [
            "# Training: beside a plain loop, by option, resumed",
            "",
            f"`python benchmarks/training.py`, PyTorch {torch.__version__}, {platform.machine()}, one thread; load "
            f"average {load:.1f} at the end. Nothing here was measured on a GPU.",
            "",
            "A run of `ovi-train` (Lightning, average of weights, guard, gradient norms, log) beside a plain "
            f"loop of the same arithmetic and the same losses. Medians over {rounds} processes of each kind, which "
            "take turns; the ratio is the median of the pairs, with the least and the largest. Memory is the growth of a "
            "process's largest resident size.",
            "",
            "| model and batch | plain, ms | ours, ms | ours / plain | tokens a second | memory, ours / plain |",
            "|---|--:|--:|--:|--:|--:|",
            *plain,
            "",
            "What the options change, on `dim 128, 4 blocks` (forward and backward pass, against keeping and training "
            "everything; memory is of tensors alive beside the weights):",
            "",
            "| option | time | memory |",
            "|---|--:|--:|",
            *options,
            "",
            "Seconds from the start of a resumed run (libraries loaded) to the end of its first step, by the step it "
            "goes on from; the place in the data by itself is in [loader.md](loader.md):",
            "",
            "| resumed at step | seconds | checkpoint, MB |",
            "|--:|--:|--:|",
            *resumed,
            "",
        ]
    )


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of the tiny model; larger ones do fewer")
    parser.add_argument("--out", type=Path, default=HERE / "training.md")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", default="ovi_11b", help="with --device cuda")
    parser.add_argument("--blocks", type=int, default=4, help="with --device cuda")
    parser.add_argument("--one", choices=("ours", "plain"), help="internal: be one measurement")
    parser.add_argument("--folder", type=Path)
    a, overrides = parser.parse_known_args()
    if a.one:
        print(json.dumps(one(a.one, overrides, a.steps, a.folder)))
        return
    if a.device == "cuda":
        on_a_gpu(a.size, a.blocks, max(a.steps // 6, 3))
        return
    torch.set_num_threads(1)
    steps = {"tiny": a.steps, "dim 128, 4 blocks": max(a.steps // 2, 10), "small": max(a.steps // 3, 10)}
    with TemporaryDirectory() as name, Progress(transient=True) as bar:
        work = bar.add_task("", total=2 * a.rounds * len(SIZES))

        def tick(what: str) -> None:
            bar.update(work, advance=1, description=what)

        plain = beside_a_plain_loop(a.rounds, steps, Path(name), tick)
        options = of_options(max(a.rounds, 3) * 2)
        resumed = of_checkpoints(Path(name), (20, 8 * a.steps))
    text = report(a.rounds, plain, options, resumed, os.getloadavg()[0])
    print(text)
    temporary = a.out.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(a.out)


if __name__ == "__main__":
    main()
