"""The paper's three stages at full size, composed as the command line does and built on the meta device."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate

from ovi_lab.common import command_line
from ovi_lab.common.paths import config_dir

AUDIO_TOWER = 5_527_581_716  # 6,094,273,556 less its half of the fusion parameters
FULL = 11_660_753_108
# from arXiv 2510.01284, read off in the order: steps, clips a step, learning rate, betas
PAPER = {
    "ovi_11b_stage1": (50_000, 2880, 1e-4, (0.9, 0.999)),
    "ovi_11b_stage3": (40_000, 768, 5e-5, (0.9, 0.95)),
}
READINGS = [
    ("ovi_11b_stage1", (), AUDIO_TOWER, AUDIO_TOWER),
    ("ovi_11b_stage2", (), AUDIO_TOWER, AUDIO_TOWER),
    ("ovi_11b_stage3", (), 6_374_885_588, FULL),
    ("ovi_11b_stage3", ("freeze=attention_only",), 5_665_443_840, FULL),
    ("ovi_11b_stage3", ("freeze=attention_and_modulation",), 5_666_918_400, FULL),
    ("ovi_11b_stage3_10s", (), 6_374_885_588, FULL),
]


def composed(experiment, *overrides):
    place = ["data.shards=x.tar", "run_dir=unused"]
    return command_line.composed([f"experiment={experiment}", *place, *overrides], config_dir(), "train")


def test_every_full_size_stage_is_held_to_a_count():
    stages = {p.stem for p in (config_dir() / "experiment").glob("ovi_11b_stage*.yaml")}
    assert stages == {experiment for experiment, *_ in READINGS}


@pytest.mark.parametrize(("experiment", "overrides", "trained", "total"), READINGS)
def test_parameters_of_each_stage_and_reading(experiment, overrides, trained, total):
    config = composed(experiment, *overrides)
    task = instantiate(config.task)
    # as the task builds it, without giving the parameters values
    with torch.device("meta"):
        model = instantiate(config.model)(**task.model_settings())
    assert all(p.is_meta for p in model.parameters())
    assert task.freeze_rule.apply(model) == (trained, total)


@pytest.mark.parametrize("experiment", sorted(PAPER))
def test_the_papers_numbers(experiment):
    steps, clips, lr, betas = PAPER[experiment]
    config = composed(experiment)
    assert config.trainer.max_steps == steps
    assert config.global_batch_size == clips
    optimizer = instantiate(config.optim.factory)([torch.nn.Parameter(torch.zeros(2, 2))])
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["lr"] == lr
    assert optimizer.defaults["betas"] == betas
    assert optimizer.defaults["eps"] == 1e-8
    assert config.trainer.precision.startswith("bf16")
    assert config.rope.mode == "constant"
    assert config.rope.factor == 0.19676
    assert config.timesteps.shared
    assert config.global_batch_size % config.data.batch_size == 0
    assert config.data.tokens_per_batch is None


def test_lengths_of_sound_and_weights_of_the_loss():
    first, second, third = (composed(f"ovi_11b_stage{n}") for n in (1, 2, 3))
    assert first.data.audio_tokens.max == 12 * 16_000 / 512
    assert first.data.audio_tokens.min < first.data.audio_tokens.max
    # 5.04 s of 16 kHz, 512 a latent
    assert second.data.audio_tokens.min == second.data.audio_tokens.max == 157
    modalities = [list(c.data.modalities) for c in (first, second, third)]
    assert modalities == [["audio"], ["audio"], ["video", "audio"]]
    assert dict(third.loss) == {"video": 0.85, "audio": 0.15}
    assert [c.name for c in (first, second, third)] == ["stage1", "stage2", "stage3"]
