"""Tokens, FLOPs and data wait of a real Trainer, whose data and steps take known times."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from ovi_lab.callbacks.csv_log import ResumableCSVLogger
from ovi_lab.callbacks.throughput import Throughput
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.flops import count_flops

TOWER = {"dim": 12, "num_heads": 2, "num_layers": 1, "ffn_dim": 8, "in_dim": 4, "text_len": 4, "text_dim": 8}
LONG, SHORT = ClipShape(audio=9), ClipShape(audio=5)


class Task(pl.LightningModule):
    """A step of known length over audio clips."""

    modalities, text_encoder = ("audio",), None

    def __init__(self, step: float) -> None:
        super().__init__()
        self.model, self.step = TwinDiT(None, TOWER), step

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        time.sleep(self.step)
        out = self.model(
            audio=batch["audio"],
            t_audio=torch.full((len(batch["audio"]),), 500.0),
            text_audio=[torch.zeros(2, 8)] * len(batch["audio"]),
        ).audio
        return sum(x.square().mean() for x in out)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


class Slow(torch.utils.data.IterableDataset[dict[str, Any]]):
    """Batches of one long and one short clip, each after a wait."""

    def __init__(self, wait: float) -> None:
        self.wait = wait

    def __iter__(self) -> Any:
        while True:
            time.sleep(self.wait)
            yield {"audio": [torch.randn(9, 4), torch.randn(5, 4)]}


def run(
    callback: Throughput, *others: pl.Callback, step: float = 0.02, wait: float = 0.02, **settings: Any
) -> None:
    trainer = pl.Trainer(
        **{"accelerator": "cpu", "max_steps": 4, "log_every_n_steps": 2, "logger": False, **settings},
        callbacks=[callback, *others],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Task(step), torch.utils.data.DataLoader(Slow(wait), batch_size=None))


def test_what_is_logged_agrees_with_what_was_done(tmp_path: Path) -> None:
    callback = Throughput(peak_tflops=1e-3)
    run(callback, logger=ResumableCSVLogger(str(tmp_path)))
    found = callback.latest
    with (tmp_path / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [1, 3]
    assert rows[-1] == pytest.approx({"step": 3.0, **found})
    seconds = found["speed/step_ms"] / 1e3
    assert seconds > 0.039
    # two clips of 9 and 5 tokens a step: rates are what was done over the time that was logged
    assert found["speed/clips_per_s"] * seconds == pytest.approx(2)
    assert found["speed/tokens_per_s"] * seconds == pytest.approx(14)
    model = TwinDiT(None, TOWER)
    flops = sum(count_flops(model, clip).model for clip in (LONG, SHORT))
    assert found["speed/tflops"] * 1e12 * seconds == pytest.approx(flops)
    assert found["speed/mfu"] == pytest.approx(found["speed/tflops"] / 1e-3)
    assert 0.019 < found["speed/data_wait"] * seconds < seconds - 0.019
    assert found["memory/peak_gib"] > 0.05


def test_accumulated_batches_are_one_step() -> None:
    callback = Throughput()
    run(callback, accumulate_grad_batches=3)
    assert callback.latest["speed/clips_per_s"] * callback.latest["speed/step_ms"] / 1e3 == pytest.approx(6)
    assert "speed/mfu" not in callback.latest


def test_time_between_batches_is_not_training() -> None:
    class Pause(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            time.sleep(0.3)

    callback = Throughput()
    run(callback, Pause(), step=0.0, wait=0.0, max_steps=2, log_every_n_steps=1)
    assert callback.latest["speed/step_ms"] < 290


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="every_n_steps is 0"):
        Throughput(every_n_steps=0)
    with pytest.raises(UserError, match=r"multiple of trainer\.log_every_n_steps=2"):
        run(Throughput(every_n_steps=3))
