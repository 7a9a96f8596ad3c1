"""Accumulated batches: whole steps whatever the epoch, a limit or a stop; the learning rate beside each."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.run_folders import logged, same, weights
from ovi_lab.callbacks import RescaledResume, Throughput
from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.common.progress import SilentReporter
from ovi_lab.data.batch_order import EpochSampler
from ovi_lab.data.buckets import Buckets
from ovi_lab.errors import UserError
from ovi_lab.runs.run import execute
from ovi_lab.tasks.base import FlowMatchingTask

BY_3 = ("trainer.max_steps=6", "trainer.accumulate_grad_batches=3", "samples.every_n_steps=0")
"""32 clips in batches of 4: 8 batches an epoch."""


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """The clips of every training batch, in order."""
    ids: list[str] = []
    losses = FlowMatchingTask.losses

    def watched(self, batch, sigmas, purpose, train):
        if train:
            ids.extend(batch["id"])
        return losses(self, batch, sigmas, purpose, train)

    monkeypatch.setattr(FlowMatchingTask, "losses", watched)
    return ids


@pytest.mark.slow
def test_the_learning_rate_is_in_both_logs_once_a_step(composed):
    settings = [*BY_3, "optim=adamw", "optim.factory.lr=1e-3", "schedule.warmup_steps=4"]
    config = composed(settings)
    config.logger.tensorboard = True
    execute(config, SilentReporter())
    run = Path(config.run_dir)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    in_events = [(event.step, event.value) for event in events.Scalars("lr")]
    in_csv = [(int(row["step"]), float(row["lr"])) for row in logged(run) if "lr" in row]
    assert [step for step, _ in in_events] == [step for step, _ in in_csv] == list(range(6))
    assert [rate for _, rate in in_events] == pytest.approx([rate for _, rate in in_csv])
    assert [rate for _, rate in in_csv[:5]] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    assert "lr/1" not in logged(run)[0]


@pytest.mark.slow
def test_muon_s_two_rates_are_both_logged(trained):
    first = logged(trained(["trainer.max_steps=1", "schedule.warmup_steps=0", "optim=muon"]))[0]
    assert (float(first["lr"]), float(first["lr/1"])) == pytest.approx((0.02, 3e-3))


@pytest.mark.slow
def test_a_step_may_span_the_end_of_an_epoch_and_of_a_limit(trained, tmp_path, seen):
    trained(BY_3, tmp_path / "whole")
    whole, _ = list(seen), seen.clear()
    assert len(whole) == 6 * 12
    assert len(set(whole[:32])) == len(set(whole[32:64])) == 32
    trained([*BY_3, "+trainer.limit_train_batches=2"], tmp_path / "limited")
    limited, _ = list(seen), seen.clear()
    assert len(limited) == 6 * 12
    assert limited[:16] == [*whole[:8], *whole[32:40]]
    trained([*BY_3, "+trainer.limit_train_batches=0.25"], tmp_path / "share")
    assert seen == limited


@pytest.mark.slow
def test_a_run_stopped_within_a_step_takes_all_of_it_when_resumed(trained, tmp_path, monkeypatch):
    whole = trained(BY_3, tmp_path / "whole")
    end = Throughput.on_train_batch_end

    def stopping(self, trainer, module, outputs, batch, batch_idx):
        end(self, trainer, module, outputs, batch, batch_idx)
        if trainer.fit_loop.total_batch_idx == 9:  # the first of step 3
            trainer.should_stop = True

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_end", stopping)
        stopped = trained([*BY_3, "checkpoint.every_n_steps=0"], tmp_path / "stopped")
    assert Checkpoint.open(resolve_checkpoint(stopped)).step == 3
    resumed = trained([*BY_3, f"resume={stopped}/last"], tmp_path / "resumed")
    assert all(same(weights(whole, ema), weights(resumed, ema)) for ema in (True, False))
    assert [r["train/loss"] for r in logged(resumed) if "train/loss" in r] == [
        r["train/loss"] for r in logged(whole) if "train/loss" in r and int(r["step"]) >= 3
    ]


def test_what_lightning_would_cut_off_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="val_check_interval is 9 batches, more than the 8"):
        trained(["trainer.val_check_interval=9"])
    with pytest.raises(UserError, match="accumulate_grad_batches is 3, which does not divide the 2 batches"):
        trained(
            ["experiment=judges", "trainer.accumulate_grad_batches=3", "task.num_train=16", "task.batch_size=8",
             "task.num_eval=8"],
            tmp_path / "judges",
        )  # fmt: skip


def resuming(
    places: int, batch_size: int, accumulate: int, clips: int = 20
) -> tuple[RescaledResume, SimpleNamespace]:
    buckets = Buckets([None] * clips, batch_size)
    data = SimpleNamespace(order=lambda world, group: EpochSampler(buckets, 0, 0, world, group))
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(global_rank=0, world_size=places),
        accumulate_grad_batches=accumulate,
        world_size=places,
    )
    return RescaledResume(data, batch_size), trainer


def checkpoint(step: int, epoch: int, position: int, ready: int, **distribution: int) -> dict:
    def counted(number: int) -> dict[str, int]:
        return {"ready": number, "started": number, "processed": number, "completed": number - 1}

    progress = {"total": counted(ready), "current": counted(ready), "is_last_batch": False}
    state = {"combined_loader": [{"epoch": epoch, "position": position}]}
    epochs = {"total": counted(epoch + 1), "current": counted(epoch + 1)}
    loop = {"state_dict": state, "epoch_loop.batch_progress": progress, "epoch_progress": epochs}
    return {"global_step": step, "loops": {"fit_loop": loop}, "spread": distribution}


@pytest.mark.parametrize(
    ("before", "now", "place", "ready"),
    [
        # of earlier versions, which divided an epoch over all processes at once: the place stays, steps are whole
        (checkpoint(2, 0, 4, 4, places=1, batch_size=4), (1, 4, 2), 4, 4),
        (checkpoint(3, 1, 0, 5, places=1, batch_size=4), (1, 4, 2), 0, 4),
        (checkpoint(1, 0, 1, 1, places=2, batch_size=4), (1, 4, 2), 2, 2),
        (checkpoint(1, 0, 1, 1, places=2, batch_size=4), (2, 2, 2), 4, 2),
        # a step of two batches, on one process and on two
        (checkpoint(1, 0, 2, 2, places=1, batch_size=4, accumulate=2, together=1), (2, 4, 1), 2, 1),
        (checkpoint(3, 1, 1, 1, places=2, batch_size=4, accumulate=1, together=1), (1, 4, 2), 1, 2),
        (checkpoint(3, 1, 1, 2, places=1, batch_size=4, accumulate=2, together=1), (2, 1, 4), 4, 4),
        # stopped within the second step
        (checkpoint(1, 0, 2, 3, places=1, batch_size=4, accumulate=2, together=1), (1, 4, 2), 2, 2),
    ],
)
def test_a_checkpoint_is_resumed_on_another_number_of_processes(before, now, place, ready):
    callback, trainer = resuming(*now)
    callback.on_load_checkpoint(trainer, None, before)
    loop = before["loops"]["fit_loop"]
    assert loop["state_dict"]["combined_loader"][0]["position"] == place
    progress = loop["epoch_loop.batch_progress"]
    begun = dict.fromkeys(("ready", "started", "processed"), ready)
    assert progress["current"] == {**begun, "completed": ready - 1}
    assert progress["total"]["ready"] == before["global_step"] * now[2]


def test_a_place_within_what_is_one_batch_now_is_refused():
    callback, trainer = resuming(1, 8, 1)
    with pytest.raises(UserError, match="after 4 clips of the epoch, which 8 at once"):
        callback.on_load_checkpoint(
            trainer, None, checkpoint(3, 1, 1, 2, places=1, batch_size=4, accumulate=2, together=1)
        )
