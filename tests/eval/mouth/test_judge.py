"""The speaking mouth's SyncNet: its file, and that it is made by training."""

import pytest
import torch

from helpers.mouth_clips import mouth_clips
from ovi_eval.ball.judges import Judges, load_judges, save_judges
from ovi_eval.errors import UserError
from ovi_eval.mouth.sync import MouthJudges
from ovi_lab.tasks.judges import JudgeTraining

SETTINGS = {"num_train": 32, "num_eval": 16, "train_seed": 1, "eval_seed": 2, "batch_size": 16}


def test_the_committed_judge_says_where_it_comes_from() -> None:
    judges = load_judges(kind=MouthJudges)
    assert judges.provenance["world"] == "speaking_mouth"
    assert judges.provenance["made_by"] == "ovi-train experiment=mouth_judge"
    assert judges.provenance["accuracy"]["sync"]["shift_accuracy"] == 1.0
    assert judges.file.stat().st_size < 500_000


def test_judges_of_another_world_are_refused(tmp_path) -> None:
    path = tmp_path / "judge.safetensors"
    saved = save_judges(MouthJudges(), {"steps": 1}, path)
    assert load_judges(path, MouthJudges).sha256 == saved.sha256
    with pytest.raises(UserError, match=r'mouth_judge/1.*this version reads "ovi_eval.ball_judges/1"'):
        load_judges(path, Judges)
    with pytest.raises(UserError, match="experiment=mouth_judge"):
        load_judges(tmp_path / "none", MouthJudges)


def test_each_world_has_its_own_judges() -> None:
    task = JudgeTraining("speaking_mouth", lr={"sync": 1e-3}, **SETTINGS)
    assert list(task.judges.parts()) == ["sync"]
    with pytest.raises(
        UserError, match=r"task\.lr has \['audio', 'sync', 'video'\], expected a rate for each of sync"
    ):
        JudgeTraining("speaking_mouth", lr=dict.fromkeys(("video", "audio", "sync"), 1e-3), **SETTINGS)
    with pytest.raises(UserError, match=r"'pendulum'; there are judges of bouncing_ball, speaking_mouth"):
        JudgeTraining("pendulum", lr={"sync": 1e-3}, **SETTINGS)


@pytest.mark.slow
def test_a_few_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    judge, clips, generator = MouthJudges().sync, mouth_clips()[:48], torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss, _ = judge.loss(clips[torch.randint(0, 48, (16,), generator=generator)], generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
