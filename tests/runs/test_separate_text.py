"""A run whose towers read different parts of a caption: trained, resumed, sampled, exported, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.run_folders import same, weights
from helpers.run_parts import load_run
from ovi_lab.errors import UserError
from ovi_lab.export.export import export_run
from ovi_lab.flow import SamplerSettings
from ovi_lab.sampling.batch import plan_rows
from ovi_lab.sampling.opening import run_bundle
from ovi_lab.sampling.pipeline import OviPipeline, embed_captions
from ovi_lab.sampling.requests import Request

LOW, HIGH = (f"a red ball bounces three times {pitch} drum" for pitch in ("low", "high"))
SETTINGS = ("text=separate", "text.sound_after=times", "fusion=none", "samples.every_n_steps=0")


@pytest.mark.slow
def test_a_run_is_resumed_to_the_bit_and_sampled_part_by_part(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    settings = [*SETTINGS, "trainer.max_steps=4", "checkpoint.keep_last=-1"]
    whole = trained(settings, tmp_path / "whole")
    resumed = trained([*settings, f"resume={whole / 'checkpoints' / 'step_000002'}"], tmp_path / "resumed")
    assert all(same(weights(whole, ema), weights(resumed, ema)) for ema in (True, False))
    text = {n: w for n, w in weights(whole, False).items() if n.startswith("text_encoder.")}
    assert len({tuple(w.flatten().tolist()) for n, w in text.items() if n.endswith(".words")}) == 2

    pipeline = OviPipeline.load(run_bundle(whole), SamplerSettings(steps=2))
    made = [pipeline.latents(pipeline.plan(Request("a", prompt, seed=1))) for prompt in (LOW, HIGH)]
    # towers that do not read each other: the words of the sound are the audio tower's alone
    assert torch.equal(made[0][0], made[1][0])
    assert not torch.allclose(made[0][1], made[1][1])
    (read,) = pipeline.texts(pipeline.plan(Request("a", LOW, seed=1)))
    assert [len(read.positive[0]), len(read.positive_of("audio")[0])] == [6, 2]
    other = embed_captions(load_run(whole).text, [LOW], pipeline.settings)
    torch.testing.assert_close(vars(read), vars(other))

    # twelve words are read of each part, not of the whole
    long = [Request("a", "a red ball bounces three times " + "very " * 9 + "low drum", seed=1)]
    plans, bad = plan_rows(long, run_bundle(whole), pipeline.settings)
    assert (len(plans), bad) == (1, [])
    too_long = [Request("a", "very " * 11 + "low times", seed=1)]
    with pytest.raises(UserError, match="has 13 tokens and 12 are read"):
        plan_rows(too_long, run_bundle(whole), pipeline.settings, strict=True)
    notes = export_run(whole, tmp_path / "out").notes
    assert any("part of the prompt (text.reads); the reference code" in note for note in notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["task=audio_pretraining"], "text.reads is what each of two towers reads"),
        (["text.reads.video=none", "text.reads.audio=none"], "none for both towers"),
        (["text.reads.video=words"], "text.reads.video is 'words'"),
    ],
)
def test_what_it_is_not_for_is_refused(
    settings: list[str], message: str, trained: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        trained([*SETTINGS, *settings], tmp_path / "run")
