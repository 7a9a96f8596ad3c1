"""Weights of the losses that are learned by uncertainty."""

import math

import pytest
import torch

from helpers.run_folders import logged, same, tensors
from ovi_lab.checkpoints import Checkpoint
from ovi_lab.errors import UserError
from ovi_lab.tasks.learned_weights import LearnedWeights

LEARNED = ("loss=learned", "loss.video=0.85", "loss.audio=0.15")


def test_they_begin_as_given_and_end_where_the_likelihood_is_greatest():
    learned = LearnedWeights({"video": 0.85, "audio": 0.15})
    losses = {"video": torch.tensor(0.25), "audio": torch.tensor(0.4)}
    total, weights = learned(losses)
    assert {m: float(w) for m, w in weights.items()} == pytest.approx({"video": 0.85, "audio": 0.15})
    expected = 0.85 * 0.25 - math.log(1.7) / 2 + 0.15 * 0.4 - math.log(0.3) / 2
    assert float(total.detach()) == pytest.approx(expected)
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        learned(losses)[0].backward()
        optimizer.step()
    assert {m: float(w.detach()) for m, w in learned.weights().items()} == pytest.approx(
        {"video": 2.0, "audio": 1.25}
    )


def test_a_modality_that_a_batch_lacks_keeps_its_weight():
    learned = LearnedWeights({"video": 0.5, "audio": 0.5})
    learned({"audio": torch.tensor(3.0)})[0].backward()
    assert learned.log_variances.grad.tolist() == pytest.approx([0.0, -1.0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["loss.audio=0"], r"loss\.audio is 0: give loss\.audio=0\.5"),
        (["loss.video=null"], r"loss\.video is 0: give"),
        (["task=audio_pretraining"], "this task trains audio alone: use loss=equal"),
    ],
)
def test_what_has_nothing_to_weigh_is_refused(settings, words, trained):
    with pytest.raises(UserError, match=words):
        trained(["loss=learned", *settings])


@pytest.mark.slow
def test_they_are_trained_logged_saved_and_resumed_bit_for_bit(trained, tmp_path):
    steps = [*LEARNED, "trainer.max_steps=4", "schedule.warmup_steps=0"]
    whole = trained(steps, tmp_path / "whole")
    rows = logged(whole)
    first = {m: float(rows[0][f"train/weight_{m}"]) for m in ("video", "audio")}
    assert first == pytest.approx({"video": 0.85, "audio": 0.15})
    expected = sum(w * float(rows[0][f"train/loss_{m}"]) - math.log(2 * w) / 2 for m, w in first.items())
    assert float(rows[0]["train/loss"]) == pytest.approx(expected, rel=1e-5)
    # the first loss of the picture is above 1 / (2 * 0.85), and that of the sound below 1 / (2 * 0.15)
    assert float(rows[3]["train/weight_video"]) < 0.85
    assert float(rows[3]["train/weight_audio"]) > 0.15
    saved = whole / "checkpoints" / "step_000003"
    assert "log_variances" in Checkpoint.open(saved).weights("learned_weights")
    resumed = trained([*steps, f"resume={saved}"], tmp_path / "resumed")
    assert same(tensors(whole), tensors(resumed))
    assert logged(resumed)[0] == rows[3]
