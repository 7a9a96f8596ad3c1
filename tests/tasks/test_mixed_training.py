"""A run over mixed data: sound alone, silent video and stills beside clips with both parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.mixed_shards import write_mixed
from helpers.run_folders import column, logged, same, weights
from ovi_lab.errors import UserError
from ovi_lab.tasks import FusionTraining

WEIGHTS = {"both": 0.4, "sound": 0.3, "silent_video": 0.15, "still": 0.15}
SETTINGS = (
    "data=latents", "data.shards=null", "data.tokens_per_batch=null", "trainer.max_steps=10", "samples.every_n_steps=0",
    "trainer.accumulate_grad_batches=2", "checkpoint.every_n_steps=3", "checkpoint.keep_last=-1", "data.num_workers=0",
    "data.prefetch=0", "optim=adamw", "roles=any",
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> dict[str, str]:
    return write_mixed(tmp_path_factory.mktemp("mixed"), data_root)


def sources(shards: dict[str, str], **weights: float) -> str:
    listed = ", ".join(
        f"{{shards: '{shards[kind]}', weight: {w}}}" for kind, w in (weights or WEIGHTS).items()
    )
    return f"data.sources=[{listed}]"


@pytest.mark.slow
def test_a_mixed_run_trains_both_towers_and_is_resumed_bit_for_bit(
    trained: Any, shards: dict[str, str], tmp_path: Path
) -> None:
    settings = [*SETTINGS, sources(shards), f"data.val={shards['both']}"]
    whole = trained(settings, tmp_path / "whole")
    before = tmp_path / "whole" / "checkpoints" / "step_000003"
    resumed = trained([*settings, f"resume={before}"], tmp_path / "resumed")
    assert all(same(weights(whole, ema), weights(resumed, ema)) for ema in (True, False))
    after = [row for row in logged(whole) if int(row["step"]) >= 3]
    assert [row for row in logged(resumed) if int(row["step"]) >= 3] == after
    kinds = [column(whole, f"train/share_{kind}") for kind in WEIGHTS]
    reports = list(zip(*(list(shares.values()) for shares in kinds if len(shares) == 2), strict=True))
    assert len(reports) == 2
    assert all(0.5 < sum(shares) <= 1.0 + 1e-6 for shares in reports)
    assert {"val/loss", "val/loss_video", "val/loss_audio"} <= {name for row in logged(whole) for name in row}


@pytest.mark.slow
def test_a_step_without_sound_leaves_the_audio_tower_to_its_momentum(
    trained: Any, shards: dict[str, str], tmp_path: Path
) -> None:
    settings = [*SETTINGS, "trainer.max_steps=1", "roles=paper", sources(shards, silent_video=1.0)]
    run = trained(settings, tmp_path / "run")
    row = logged(run)[0]
    assert "train/loss_audio" not in row
    assert float(row["train/loss"]) == pytest.approx(0.5 * float(row["train/loss_video"]))
    assert float(row["grad_norm/audio_model"]) == 0.0 < float(row["grad_norm/video_model"])
    start = trained([*settings, "optim.factory.lr=0"], tmp_path / "start")
    moved = {n: not torch.equal(w, weights(start, False)[n]) for n, w in weights(run, False).items()}
    assert any(moved[n] for n in moved if "video_model" in n)
    assert not any(moved[n] for n in moved if "audio_model" in n)


@pytest.mark.slow
def test_the_text_encoder_of_an_absent_tower_has_a_gradient_as_the_tower_has(
    trained: Any, shards: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients: dict[str, float | None] = {}

    def look(task: Any, optimizer: Any) -> None:
        for name, weight in task.text_encoder.named_parameters():
            gradients[name] = None if weight.grad is None else float(weight.grad.abs().sum())

    monkeypatch.setattr(FusionTraining, "on_before_optimizer_step", look)
    one_step = ["trainer.max_steps=1", "roles=paper", sources(shards, silent_video=1.0)]
    trained([*SETTINGS, *one_step, "text=separate", "text.reads.audio=all"])
    assert gradients["encoders.audio.words"] == gradients["encoders.audio.positions"] == 0.0
    # at the first step the output layer is zero, and the gradient of all before it
    assert gradients["encoders.video.words"] == 0.0


@pytest.mark.parametrize(
    ("settings", "kinds", "message"),
    [
        (
            ["roles.video_given=0.3", "roles.joint=0.7"],
            ("sound", "still"),
            "roles.video_given is 0.3, and no training clip has video and audio",
        ),
        (
            ["roles.first_frame=1", "roles.joint=0"],
            ("sound",),
            "roles.first_frame is 1, and no training clip has video",
        ),
        (
            ["task=audio_pretraining"],
            ("both", "still"),
            r"some training clips have video alone: set data.modalities=\[audio\]",
        ),
    ],
)
def test_clips_that_a_role_or_the_task_cannot_use_are_refused(
    settings: list[str],
    kinds: tuple[str, ...],
    message: str,
    trained: Any,
    shards: dict[str, str],
    tmp_path: Path,
) -> None:
    even = {kind: 1 / len(kinds) for kind in kinds}
    base = [s for s in SETTINGS if s != "roles=any"]
    with pytest.raises(UserError, match=message):
        trained([*base, *settings, sources(shards, **even)], tmp_path / "run")
