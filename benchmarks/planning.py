"""Predicted memory of training beside measured memory, at small sizes on a CPU; writes planning.md.

    python benchmarks/planning.py                 a minute of one CPU thread
    python benchmarks/planning.py --size tiny     seconds, without touching planning.md unless --out is given

Measured is a run of Lightning's Trainer with the real task, optimiser and EMA over random latents, from the second step
on, by two instruments: the storages that are alive, as `ovi_lab.planning.live_memory` counts them, and what PyTorch's
allocator gave out, as its profiler tells, which also sees what kernels take for themselves.
"""

from __future__ import annotations

import argparse
import gc
import logging
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import track
from torch.utils.data import DataLoader

from ovi_eval.common.files import write_whole
from ovi_lab.callbacks import EMA
from ovi_lab.common.paths import config_dir
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.job import TrainingJob
from ovi_lab.planning.live_memory import LiveMemory
from ovi_lab.planning.training_planner import TrainingPlanner
from ovi_lab.strategies import build_strategy

HERE = Path(__file__).resolve().parent
MB = 1e6


@dataclass(frozen=True)
class Case:
    """One configuration."""

    name: str
    overrides: Sequence[str]
    clip: ClipShape
    words: int = 9
    """Of each caption."""


@dataclass
class Row:
    """Bytes at the largest moment of a step."""

    case: Case
    predicted: int
    alive: int
    allocated: int

    @property
    def error(self) -> float:
        """Of the prediction, against the larger of both measurements."""
        return self.predicted / max(self.alive, self.allocated) - 1


SIZES = {
    "tiny": (["model=tiny", "text.max_words=9"], ClipShape((4, 6, 6), 40), "2"),
    "mid": (
        ["model=small", "text.max_words=9", "model.video.num_layers=4", "model.audio.num_layers=4"],
        ClipShape((3, 6, 6), 40),
        "2",
    ),
}
CHANGES: dict[str, list[str]] = {
    "all trained": [],
    "FFNs frozen": ["freeze=ffn"],
    "attention only": ["freeze=attention_only"],
    "fusion only": ["freeze=all_but_fusion"],
    "blocks recomputed": ["model.activation_checkpointing=full"],
    "attention kept": ["model.activation_checkpointing=attention"],
    "products kept": ["model.activation_checkpointing=matmul"],
    "every second recomputed": ["model.activation_checkpointing=full", "model.checkpoint_every=2"],
    "FFNs frozen, recomputed": ["freeze=ffn", "model.activation_checkpointing=full"],
    "accumulated": ["trainer.accumulate_grad_batches=2"],
    "without EMA": ["ema.decay=0"],
    "every second fused": ["fusion=every_2"],
    "audio tower": ["task=audio_pretraining", "fusion=none"],
    "video tower, recomputed": [
        "task=video_pretraining",
        "fusion=none",
        "model.activation_checkpointing=full",
    ],
    "Muon": ["optim=muon"],
    "bf16 autocast": ["trainer.precision=bf16-mixed"],
    "first frames given": ["roles.joint=0.0", "roles.first_frame=1.0"],
}


def cases(size: str) -> list[Case]:
    """Each change, and batches of one and of many clips."""
    base, clip, clips = SIZES[size]
    found = [
        Case(name, [*base, f"data.batch_size={clips}", *change], clip) for name, change in CHANGES.items()
    ]
    for count in ("1", str(4 * int(clips))):
        found.append(Case(f"{count} clips", [*base, f"data.batch_size={count}"], clip))
    return found


def composed(overrides: Sequence[str]) -> DictConfig:
    """As `ovi_lab.train` composes it; AdamW unless another is chosen."""
    GlobalHydra.instance().clear()
    chosen = [] if any(o.startswith("optim=") for o in overrides) else ["optim=adamw"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=[*chosen, *overrides])


def predicted(config: DictConfig, case: Case) -> int:
    """Bytes at the largest moment."""
    planner = TrainingPlanner(TrainingJob(config, case.clip), on_cpu=True, text_tokens=case.words)
    return planner.memory(planner.requested(1)).total


class _Clips(torch.utils.data.Dataset[dict[str, Any]]):
    """Random latents, made as they are asked for."""

    def __init__(self, job: TrainingJob, count: int, words: int) -> None:
        self.job, self.count, self.words = job, count, words

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        config, clip = self.job.config.model, self.job.clip
        sample: dict[str, Any] = {"id": str(index), "caption": " ".join(["word"] * self.words)}
        if clip.video is not None:
            sample["video"] = torch.randn(config.video.in_dim, *clip.video)
        if clip.audio is not None:
            sample["audio"] = torch.randn(clip.audio, config.audio.in_dim)
        return sample


class _Watch(pl.Callback):
    """Calls `begin` after the first step: the optimiser has its state from then on."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin, self.begun = begin, False

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 1 and not self.begun:
            self.begun = True
            self.begin()


def train(config: DictConfig, case: Case, begin: Callable[[], None]) -> None:
    """Two steps."""
    task = instantiate(config.task)
    job = TrainingJob(config, case.clip)
    accumulate = int(config.trainer.accumulate_grad_batches)
    data = DataLoader(_Clips(job, 2 * accumulate * job.micro, case.words), batch_size=job.micro)
    settings = {**OmegaConf.to_container(config.trainer, resolve=True), "max_steps": 2}  # type: ignore[dict-item]
    trainer = pl.Trainer(
        **settings,
        max_epochs=-1,
        strategy=build_strategy(OmegaConf.to_container(config.strategy), settings),  # type: ignore[arg-type]
        callbacks=[*([EMA(**config.ema)] if config.ema.decay else []), _Watch(begin)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(task, data)


def alive(config: DictConfig, case: Case) -> int:
    """Most bytes of storages alive."""
    with LiveMemory("cpu") as live:

        def begin() -> None:
            live.peak = live.now

        train(config, case, begin)
    return live.peak


def allocated(config: DictConfig, case: Case) -> int:
    """Most bytes that the allocator had given out to this run."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    gc.collect()
    with profiler:
        train(config, case, lambda: None)
    return _peak(profiler)


def _peak(profiler: Any) -> int:
    now = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def row(case: Case) -> Row:
    """Predicted and measured."""
    config = composed(case.overrides)
    return Row(case, predicted(config, case), alive(config, case), allocated(config, case))


def table(rows: Sequence[Row], size: str) -> str:
    """As Markdown."""
    lines = [
        "# Memory of training: predicted and measured",
        "",
        f"`python benchmarks/planning.py --size {size}`, PyTorch {torch.__version__}, {platform.machine()}, CPU. "
        "Decimal MB at the largest moment of a step.",
        "Alive: storages of tensors; allocated: what PyTorch's allocator gave out, kernels' own memory included. "
        "The error is against the larger.",
        "",
        "| case | predicted | alive | allocated | error |",
        "|---|---:|---:|---:|---:|",
    ]
    for r in rows:
        numbers = " | ".join(f"{x / MB:.2f}" for x in (r.predicted, r.alive, r.allocated))
        lines.append(f"| {r.case.name} | {numbers} | {r.error:+.1%} |")
    worst = max(rows, key=lambda r: abs(r.error))
    lines += ["", f"Largest error: {worst.error:+.1%} ({worst.case.name})."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--out", type=Path, help="default: planning.md beside this file, for --size mid")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows = [row(case) for case in track(cases(arguments.size), "cases")]
    text = table(rows, arguments.size)
    print(text)
    out = arguments.out or (HERE / "planning.md" if arguments.size == "mid" else None)
    if out is not None:
        write_whole(out, text)


if __name__ == "__main__":
    main()
