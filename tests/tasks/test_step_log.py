"""What is logged with a step: one row, the digits that Lightning logs, read together."""

from __future__ import annotations

import csv
import gc
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from helpers.operations import Operations
from helpers.watched import Clips, Towers, loader, trainer
from ovi_lab.callbacks import GradientNorms, Guard, ResumableCSVLogger
from ovi_lab.tasks import step_log
from ovi_lab.tasks.step_log import log_with_step, read_step


class ByLightning(Callback):
    """Logs the norms a second time, by Lightning, as `theirs/…`."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        norms = {n: v for n, v in trainer.callback_metrics.items() if n.startswith("grad_norm/")}
        assert norms
        pl_module.log_dict({f"theirs/{n}": v for n, v in norms.items()})


def test_a_step_is_one_row_with_the_digits_of_lightning(tmp_path: Path) -> None:
    callbacks = [GradientNorms(), ByLightning(), Guard(tmp_path, "skip")]
    fit = trainer(tmp_path, "auto", 1, callbacks, max_steps=3, accumulate_grad_batches=2)
    fit.loggers = [ResumableCSVLogger(str(tmp_path))]
    fit.fit(Towers(), loader(Clips(6)))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    parts = ("video_model", "audio_model", "fusion", "total")
    own = [f"grad_norm/{part}" for part in parts]
    assert set(rows[0]) == {"step", "epoch", "guard/skipped", *own, *(f"theirs/{name}" for name in own)}
    for row in rows:
        assert [row[name] for name in own] == [row[f"theirs/{name}"] for name in own]
        assert (row["epoch"], row["guard/skipped"]) == ("0", "0.0")
    assert rows[0]["grad_norm/total"] != rows[1]["grad_norm/total"]
    last = float(rows[-1]["grad_norm/total"])
    assert (
        fit.callback_metrics["grad_norm/total"].item() == fit.logged_metrics["grad_norm/total"].item() == last
    )


def test_numbers_of_several_types_are_read_together_and_exactly() -> None:
    fit = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    third = torch.tensor(1 / 3, dtype=torch.float64, requires_grad=True)
    log_with_step(fit, {"double": third, "half": torch.tensor([0.1]).bfloat16(), "number": 0.1})
    log_with_step(fit, {f"loss/{n}": torch.tensor(n / 7) for n in range(30)})
    with Operations() as seen:
        read = read_step(fit)
    assert seen.counts["aten::_local_scalar_dense"] == 0
    assert seen.counts["aten::stack"] == 1
    assert read["double"] == 1 / 3
    assert read["half"] == torch.tensor(0.1).bfloat16().item()
    assert read["number"] == torch.tensor(0.1).item()
    assert [read[f"loss/{n}"] for n in range(30)] == [torch.tensor(n / 7).item() for n in range(30)]
    assert read_step(fit) == read
    assert fit.callback_metrics["double"].item() == 1 / 3
    # what a trainer holds goes with it
    held = len(step_log._PENDING)
    del fit
    gc.collect()
    assert len(step_log._PENDING) < held
