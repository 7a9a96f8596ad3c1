"""A run killed twenty times and resumed ends as the run that was not: weights, averages and log, to the last bit."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ovi_lab.checkpoints import resolve_checkpoint

KILLS = 20
SETTINGS = (
    "name=killed",
    "data.num_train=44",  # 11 batches: every other epoch ends within a group of the two that a step accumulates
    "data.num_eval=8",
    "data.batch_size=4",
    "data.num_workers=2",
    "trainer.max_steps=120",
    "trainer.accumulate_grad_batches=2",
    "trainer.log_every_n_steps=1",
    "task.text_dropout=0.3",
    "samples.every_n_steps=0",
    "logger.tensorboard=false",
    "checkpoint.every_n_steps=2",
    "guard.on_bad_step=skip",
)


def run(folder: Path, name: str, kills: int) -> str:
    script = Path(__file__).parents[1] / "helpers" / "killed.py"
    done = subprocess.run(
        [sys.executable, str(script), str(folder / name), "--kills", str(kills), *SETTINGS, f"data.root={folder}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def contents(run_dir: Path) -> dict[str, torch.Tensor]:
    folder = resolve_checkpoint(run_dir)
    return {
        f"{file.relative_to(folder)}:{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def log(run_dir: Path) -> list[dict[str, str]]:
    rows = csv.DictReader((run_dir / "metrics.csv").open())
    return [{k: v for k, v in r.items() if v and not k.startswith(("speed/", "memory/"))} for r in rows]


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path):
    run(tmp_path, "whole", 0)
    told = run(tmp_path, "killed", KILLS)
    killed, while_saving = map(int, re.findall(r"\d+", told))
    assert killed == KILLS
    assert while_saving >= 3
    whole, resumed = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert log(tmp_path / "killed") == log(tmp_path / "whole")
    left = [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()]
    assert sorted(left) == ["step_000118", "step_000120"]
