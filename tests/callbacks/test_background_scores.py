"""Scoring beside the training: sets of clips in turn, those of an interrupted run, and no wait that times out."""

import time
from datetime import timedelta

import pytest
import torch
from torch import distributed as dist

from helpers.ball_clips import real_clips
from helpers.forks import ranks
from ovi_lab.callbacks.background_scores import BackgroundScores
from ovi_lab.strategies.process_groups import alone_on_first


def scores_in(folder, metrics=("temporal_flickering",)):
    return BackgroundScores(folder, metrics, "cpu", "in training, 3 clips")


@pytest.mark.slow
def test_sets_are_scored_in_turn_and_those_of_an_interrupted_run_when_it_is_resumed(tmp_path, caplog):
    real_clips(3, seed=9).save(tmp_path / "reference.safetensors")
    first = scores_in(tmp_path)
    first.add(2, 1, real_clips(3, seed=1))
    assert first.under_way == 2
    assert not first.busy
    first.add(4, 3, real_clips(3, seed=2))
    assert first.busy  # one is scored and one waits
    assert list(first.collect()) == []
    first.stop()
    assert first.under_way is None
    (tmp_path / "step_000004_at_3.samples.safetensors").write_bytes(b"torn")
    (tmp_path / "step_000006_at_5.samples.safetensors").touch()
    (tmp_path / "step_notes.samples.safetensors").touch()

    resumed = scores_in(tmp_path)
    resumed.resume(before=5)  # the run will sample step 6 again
    assert {path.name for path in tmp_path.glob("*_at_5.samples.safetensors")} == set()
    ((logged_as, values),) = resumed.wait()
    assert (logged_as, list(values)) == (1, ["temporal_flickering"])
    assert "val_metrics at step 4 failed: " in caplog.text
    assert {path.name for path in tmp_path.glob("*.samples.safetensors")} == {
        "step_notes.samples.safetensors"
    }


def work_longer_than_the_timeout(file):
    dist.init_process_group("gloo", timeout=timedelta(seconds=1))
    done = alone_on_first(lambda: time.sleep(2) or "by the first")
    count = torch.ones(1)
    dist.all_reduce(count)
    file.with_suffix(f".{dist.get_rank()}").write_text(f"{done} {count.item()}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_others_wait_longer_than_the_timeout_of_the_process_group(tmp_path):
    for fork in ranks(work_longer_than_the_timeout, tmp_path / "done", world=2):
        assert fork.wait() == 0, fork.output
    assert [(tmp_path / f"done.{rank}").read_text() for rank in (0, 1)] == ["by the first 2.0", "None 2.0"]
