"""Losses as they are logged: of clips that have one, by role, and the same on every process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from helpers.forks import ranks, wait_for_all
from helpers.run_folders import column, logged
from ovi_lab.flow import FlowLoss
from ovi_lab.models.config import MODALITIES
from ovi_lab.tasks.losses_by_timestep import LossByTimestep, names_by_role
from ovi_lab.tasks.step_losses import StepLosses

NAMES = names_by_role(("joint", "video_given"), MODALITIES)
SIGMAS = torch.tensor([0.1, 0.6])


def of(losses: list[float]) -> FlowLoss:
    """By clip, NaN where a clip has none."""
    per_clip = torch.tensor(losses)
    counted = ~per_clip.isnan()
    return FlowLoss(per_clip.nan_to_num(), None if counted.all() else np.array(counted.tolist()))


def test_a_step_s_loss_is_the_mean_over_clips_that_have_one() -> None:
    step, nan = StepLosses(), float("nan")
    for batch in ([1.0, nan, 3.0], [nan, nan, nan], [8.0, 8.0, nan]):
        step.add("train/loss", torch.tensor(2.0))
        step.add_clips("video", of(batch))
        step.add_clips("audio", of([nan] * 3))
    assert {n: float(x) for n, x in step.reduced().items()} == {"train/loss": 2.0, "video": 5.0}
    step.begin()
    step.add("train/loss", torch.tensor(7.0))
    assert {n: float(x) for n, x in step.reduced().items()} == {"train/loss": 7.0}


def test_bins_do_not_depend_on_when_they_are_read() -> None:
    """A state that is read in between changes no bit; clips that are left out, or not finite, count nowhere."""
    g = torch.Generator().manual_seed(0)
    names = ("joint/video", "video_given/video", "video")
    seldom, often = LossByTimestep(4), LossByTimestep(4)
    totals: dict[str, list[float]] = {name: [] for name in names}
    for step in range(40):
        losses, sigmas = torch.rand(5, generator=g), torch.rand(5, generator=g)
        losses[4] = float("nan") if step % 7 == 0 else losses[4]
        places = [
            place + (place == 2) for place in torch.randint(3, (5,), generator=g).tolist()
        ]  # 3: left out
        for bins in (seldom, often):
            bins.add_groups(names, places, losses, sigmas)
            bins.end_step()
        often.state()
        for place, loss in zip(places, losses.tolist(), strict=True):
            if place < 2 and loss == loss:
                totals[names[place]].append(loss)
                totals["video"].append(loss)
    assert seldom.state() == often.state()
    report = seldom.collect()
    assert report == often.collect()
    for name in names[:2]:
        role = name.partition("/")[0]
        assert report[f"{role}/loss_video"] == pytest.approx(np.mean(totals[name]), rel=1e-5)
    whole = LossByTimestep(1)
    whole.add_groups(names, [0, 1, 3], torch.tensor([1.0, 3.0, 50.0]), torch.tensor([0.2, 0.4, 0.6]))
    assert whole.collect()["video_t000-1000"] == 2.0
    assert whole.collect() == {}


def _report(folder: str) -> None:
    """What one of two processes reports that meet other roles, in another order."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    bins, device = LossByTimestep(2), torch.device("cpu")
    bins.expect(NAMES, device)

    def add(name: str, losses: Tensor) -> None:
        bins.add(name, losses, SIGMAS)

    said: list[object] = []
    add("video_given/audio" if rank else "joint/video", torch.tensor([1.0, 2.0]))
    add("audio" if rank else "video", torch.tensor([3.0, 4.0]) + rank)
    bins.end_step()
    state = bins.state()
    said.append(bins.collect())
    if rank:  # after a report, and restored, each adds something else first
        add("joint/audio", torch.tensor([5.0, 5.0]))
    add("joint/video", torch.tensor([6.0 + rank, 7.0]))
    said.append(bins.collect())
    again = LossByTimestep(2)
    again.restore(state, device)
    again.expect(NAMES, device)
    said.append(again.collect())
    step = StepLosses()
    step.add("train/loss", torch.tensor(1.0 + rank))
    step.add_clips("audio", of([float("nan")]))
    step.add_clips("video", of([2.0, 4.0] if rank else [float("nan"), float("nan")]))
    said.append({name: float(value) for name, value in step.reduced().items()})
    Path(folder, f"{rank}.json").write_text(json.dumps(said))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_report_the_same_whatever_each_has_met(tmp_path: Path) -> None:
    wait_for_all(ranks(_report, str(tmp_path)))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    report, later, restored, step = first
    assert report == restored
    assert report == {
        "video_t000-500": 3.0,
        "video_t500-1000": 4.0,
        "audio_t000-500": 4.0,
        "audio_t500-1000": 5.0,
        "joint/loss_video": 1.5,
        "joint/video_t000-500": 1.0,
        "joint/video_t500-1000": 2.0,
        "video_given/loss_audio": 1.5,
        "video_given/audio_t000-500": 1.0,
        "video_given/audio_t500-1000": 2.0,
    }
    assert later["joint/video_t000-500"] == 6.5
    assert later["joint/loss_audio"] == 5.0
    assert step == {"train/loss": 1.5, "video": 3.0}


@pytest.mark.slow
def test_a_run_logs_the_losses_of_its_roles(trained, tmp_path: Path) -> None:
    roles = ("roles.joint=0.4", "roles.video_given=0.6", "loss.video=1", "loss.audio=1")
    run = trained(["trainer.max_steps=10", "samples.every_n_steps=0", *roles], tmp_path / "run")
    reports = [row for row in logged(run) if "train/joint/loss_video" in row]
    assert len(reports) == 2
    for report in reports:
        assert {"train/joint/loss_audio", "train/video_given/loss_audio"} <= report.keys()
        assert "train/video_given/loss_video" not in report
    # of four clips a step, those whose picture is generated have a loss, and the trained one counts the others as 0
    whole, video, audio = (column(run, f"train/{n}") for n in ("loss", "loss_video", "loss_audio"))
    shares = {step: (whole[step] - audio[step]) / value for step, value in video.items()}
    assert set(np.round(4 * np.array(list(shares.values())), 3)) <= {1.0, 2.0, 3.0, 4.0}
    assert min(shares.values()) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
def test_one_tower_is_trained_with_the_roles_that_it_can_have(
    trained: Any, modality: str, tmp_path: Path
) -> None:
    roles = ("roles=any", "roles.joint=0.3", "roles.audio_given=0.1", "roles.beginning=0.25")
    settings = ("trainer.max_steps=5", "samples.every_n_steps=0", "data.batch_size=8")
    run = trained([f"experiment={modality}_pretraining", *settings, *roles], tmp_path / "run")
    names = {name for row in logged(run) for name in row}
    assert {f"train/{role}/loss_{modality}" for role in ("joint", "beginning", "span")} <= names
    assert not {f"train/{role}/loss_{modality}" for role in ("video_given", "audio_given")} & names
    assert "val/loss" in names
