"""A run killed twenty times and resumed ends as the run that was not: weights, averages and log, to the last bit."""

import re

import pytest

from helpers.forks import Fork
from helpers.killed import run_with_kills
from helpers.run_folders import logged, same, tensors

KILLS = 20
SETTINGS = (
    "name=killed",
    "data.num_train=44",  # 11 batches: every other epoch ends within a group of the two that a step accumulates
    "data.num_eval=8",
    "data.batch_size=4",
    "data.num_workers=2",
    "trainer.max_steps=60",
    "trainer.accumulate_grad_batches=2",
    "trainer.log_every_n_steps=1",
    "task.text_dropout=0.3",
    "samples.every_n_steps=0",
    "logger.tensorboard=false",
    "checkpoint.every_n_steps=2",
    "guard.on_bad_step=skip",
)


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = [*SETTINGS, f"data.root={tmp_path}"]
    undisturbed, disturbed = (
        Fork(run_with_kills, folder, settings, kills) for folder, kills in ((whole, 0), (killed, KILLS))
    )
    for fork in (undisturbed, disturbed):
        assert fork.wait(400) == 0, fork.output
    kills, while_saving = map(int, re.findall(r"\d+", disturbed.output.splitlines()[-1]))
    assert kills == KILLS
    assert while_saving >= 3
    assert same(tensors(whole), tensors(killed))
    assert logged(killed) == logged(whole)
    left = [p.name for p in (killed / "checkpoints").iterdir()]
    assert sorted(left) == ["step_000058", "step_000060"]
