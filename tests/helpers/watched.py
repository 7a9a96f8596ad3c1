"""A task of two tiny towers whose batches go wrong on demand, and its training under every strategy."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ovi_lab.callbacks.gradients import GradientNorms
from ovi_lab.callbacks.guard import Guard
from ovi_lab.strategies.base import strategy_of
from ovi_lab.tasks.task import Task

STRATEGIES = {
    "ddp": {"name": "ddp"},
    "fsdp2": {"name": "fsdp2"},
    "zero1": {"name": "zero", "stage": 1},
    "zero2": {"name": "zero", "stage": 2},
    "zero3": {"name": "zero", "stage": 3},
}
STEPS, ACCUMULATE = 4, 2
BAD = 5  # the second micro-batch of step 2


class Clips(Dataset):
    """Micro-batches of two clips; those at `bad` (number, rank) hold `value`."""

    def __init__(
        self, count: int, rank: int = 0, bad: tuple[int, int] | None = None, value: float = math.nan
    ):
        self.count, self.rank, self.bad, self.value = count, rank, bad, value

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(1000 * self.rank + number)
        batch = {name: torch.randn(2, 5, generator=generator) for name in ("video", "audio")}
        if self.bad == (number, self.rank):
            batch["video"] *= self.value
        ids = [f"r{self.rank}n{number}c{i}" for i in range(2)]
        return {"id": ids, "caption": ["a", "b"], "text": [batch["audio"][0]], **batch}


class Tower(nn.Module):
    """A layer of its own and one of fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.k_fusion = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.k_fusion(self.own(x))


class Pair(nn.Module):
    """Two towers, and the loss of each."""

    def __init__(self) -> None:
        super().__init__()
        self.video_model, self.audio_model = Tower(), Tower()

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {
            "video": self.video_model(batch["video"]).square().mean(),
            "audio": self.audio_model(batch["audio"]).square().mean(),
        }


class Towers(Task):
    """Trains a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.model: nn.Module | None = None

    def configure_model(self) -> None:
        if self.model is not None:
            return
        torch.manual_seed(0)
        self.model = Pair()
        strategy_of(self.trainer).place_other(self.model)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        losses = self.model(batch)
        for observe in self.observers:
            observe(batch, {"video": torch.tensor([0.1, 0.2])}, losses)
        return losses["video"] + losses["audio"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)


class Recorder(Callback):
    """Weights after each optimiser step, by name, whole; and the gradient norms that were logged.

    `places` has the addresses of the storages in which gradients lie after each backward pass.
    """

    def __init__(self) -> None:
        self.weights: list[list[float]] = []
        self.norms: list[dict[str, float]] = []
        self.places: list[list[int]] = []
        self._at = 0

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gradients = [p.grad for p in pl_module.parameters() if type(p.grad) is torch.Tensor]
        self.places.append(sorted({g.untyped_storage().data_ptr() for g in gradients}))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self._at:
            return
        self._at = trainer.global_step
        self.weights.append([x for p in pl_module.parameters() for x in whole(p).flatten().tolist()])
        self.norms.append(
            {
                n.removeprefix("grad_norm/"): float(v)
                for n, v in trainer.callback_metrics.items()
                if n.startswith("grad_norm/")
            }
        )


def whole(parameter: Any) -> torch.Tensor:
    """A parameter put together from all ranks, in float32."""
    if hasattr(parameter, "full_tensor"):
        return parameter.full_tensor().detach()
    if hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(parameter)
    return parameter.detach()


def trainer(
    run_dir: Path, strategy: Any, devices: int, callbacks: list[Callback], **settings: Any
) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, callbacks=callbacks, logger=False, max_epochs=-1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        use_distributed_sampler=False, default_root_dir=run_dir, **settings,
    )  # fmt: skip


def loader(clips: Clips) -> DataLoader:
    return DataLoader(clips, batch_size=None)


def train_under_all(out: Path) -> None:
    """As one of two processes; what came of each strategy is in `out/<strategy>_<rank>.json`."""
    from ovi_lab.errors import UserError
    from ovi_lab.strategies import build_strategy

    rank, machine = int(os.environ["RANK"]), {"accelerator": "cpu", "devices": 2}
    for name, settings in STRATEGIES.items():
        recorder = Recorder()
        guard = Guard(out, on_bad_step="skip")
        fit = trainer(
            out, build_strategy(settings, machine), 2, [GradientNorms(), guard, recorder],
            max_steps=STEPS, accumulate_grad_batches=ACCUMULATE, gradient_clip_val=1.0,
        )  # fmt: skip
        fit.fit(Towers(), loader(Clips(STEPS * ACCUMULATE, rank, bad=(BAD, 1))))
        told = {
            "weights": recorder.weights,
            "norms": recorder.norms,
            "skipped": guard.skipped,
            "at": guard.skipped_at,
            "places": recorder.places,
        }
        (out / f"{name}_{rank}.json").write_text(json.dumps(told))
    stopping = trainer(out, build_strategy(STRATEGIES["ddp"], machine), 2, [Guard(out)], max_steps=STEPS)
    try:
        stopping.fit(Towers(), loader(Clips(STEPS, rank, bad=(1, 1))))
    except UserError as error:
        (out / f"stopped_{rank}.txt").write_text(str(error))
