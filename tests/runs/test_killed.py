"""A run killed twenty times and resumed ends as the run that was not: weights, averages and log, to the last bit."""

import pytest

from helpers.forks import Fork
from helpers.killed import killed_and_resumed, train
from helpers.run_folders import logged, same, tensors

KILLS = 20
SETTINGS = (
    "name=killed",
    "data.num_train=44",  # 11 batches: every other epoch ends within a group of the two that a step accumulates
    "data.num_eval=8",
    "data.batch_size=4",
    "data.num_workers=2",
    "trainer.max_steps=60",
    "model.video.num_layers=1",
    "model.audio.num_layers=1",
    "trainer.accumulate_grad_batches=2",
    "trainer.log_every_n_steps=1",
    "task.text_dropout=0.3",
    "samples.every_n_steps=0",
    "logger.tensorboard=false",
    "checkpoint.every_n_steps=2",
    "guard.on_bad_step=skip",
)


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path, data_root):
    settings = [*SETTINGS, f"data.root={data_root}"]
    straight = Fork(train, tmp_path / "whole", settings)
    assert straight.wait() == 0, straight.output
    assert killed_and_resumed(tmp_path / "killed", settings, KILLS) >= 3
    assert same(tensors(tmp_path / "killed"), tensors(tmp_path / "whole"))
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    left = [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()]
    assert sorted(left) == ["step_000058", "step_000060"]
