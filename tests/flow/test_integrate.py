"""Sampling: the released loop's latents in all stored cases, and what the loop may not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import (
    begun_with,
    golden_twin,
    hold_the_golden,
    read_golden,
    sampled_golden,
    tiny_twin,
)
from ovi_lab.errors import UserError
from ovi_lab.flow import SOLVERS, SamplerSettings, Texts, noise_batch, sample
from ovi_lab.models import TwinDiT


@pytest.fixture(scope="module")
def golden(goldens: Path) -> tuple[TwinDiT, dict[str, Tensor]]:
    return golden_twin(goldens), read_golden(goldens / "sampling_tiny.safetensors")[0]


@pytest.mark.parametrize("case", ["t2v", "i2v"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_latents_of_the_released_loop(
    golden: tuple[TwinDiT, dict[str, Tensor]], solver: str, case: str
) -> None:
    model, stored = golden
    hold_the_golden(sampled_golden(model, stored, case == "i2v", solver=solver), stored, f"{solver}_6_{case}")


class Counted:
    """A tiny twin whose passes are counted."""

    def __init__(self) -> None:
        self.model = tiny_twin(spread=0.1)
        self.batches: list[int] = []
        self.model.register_forward_pre_hook(self.count)
        self.video = noise_batch([1, 2], (4, 3, 4, 4), "video")
        self.audio = noise_batch([1, 2], (9, 3), "audio")
        g = torch.Generator().manual_seed(0)
        self.text = [torch.randn(n, 10, generator=g) for n in (5, 2)]
        self.negative = [torch.randn(3, 10, generator=g)]
        self.both = Texts(self.text, self.negative, self.negative)

    def count(self, _model: object, args: tuple[Tensor | None, ...]) -> None:
        self.batches.append(len(next(x for x in args if x is not None)))

    def run(
        self,
        video: bool = True,
        audio: bool = True,
        clips: slice = slice(None),
        *,
        texts: Texts | None = None,
        frame: Tensor | None = None,
        on_step: Any = None,
        **settings: Any,
    ) -> Any:
        self.batches.clear()
        noise = {"video": self.video[clips]} if video else {}
        noise |= {"audio": self.audio[clips]} if audio else {}
        chosen = SamplerSettings(**{"steps": 3, **settings})
        texts = texts or Texts(self.text[clips])
        begin = {} if frame is None else begun_with(frame, noise.get("video", self.video[clips]))
        return sample(self.model, noise, texts, chosen, **begin, on_step=on_step)


@pytest.fixture(scope="module")
def counted() -> Counted:
    return Counted()


def test_guidance_of_one_costs_no_negative_pass(counted: Counted) -> None:
    plain = counted.run()
    assert counted.batches == [2, 2, 2]
    unused = counted.run(texts=counted.both)
    assert counted.batches == [2, 2, 2]
    assert torch.equal(plain.video, unused.video)


def test_both_passes_run_as_one_batch_where_they_can(counted: Counted) -> None:
    guided = {"texts": counted.both, "video_guidance": 4.0, "audio_guidance": 3.0}
    one = counted.run(**guided)
    assert counted.batches == [4, 4, 4]
    two = counted.run(**guided, batch_passes=False)
    assert counted.batches == [2] * 6
    torch.testing.assert_close(one.video, two.video, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.audio, two.audio, atol=1e-4, rtol=1e-4)
    skipping = counted.run(**guided, skip_layers=[1])
    assert counted.batches == [2] * 6
    assert not torch.allclose(skipping.video, two.video, atol=1e-3)


def test_one_modality_may_be_guided_alone(counted: Counted) -> None:
    plain = counted.run()
    out = counted.run(video_guidance=4.0, texts=Texts(counted.text, counted.negative))
    assert counted.batches == [4, 4, 4]
    assert not torch.allclose(out.video, plain.video, atol=1e-3)
    with pytest.raises(UserError, match=r"audio guidance is 2\.0 without a negative audio text"):
        counted.run(audio_guidance=2.0)


def test_guidance_towards_the_same_text_changes_nothing(counted: Counted) -> None:
    plain = counted.run()
    texts = Texts(counted.text, counted.text, counted.text)
    same = counted.run(texts=texts, video_guidance=4.0, audio_guidance=3.0)
    torch.testing.assert_close(same.video, plain.video, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(same.audio, plain.audio, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_one_modality_alone(counted: Counted, guidance: float) -> None:
    settings = {"video_guidance": guidance, "audio_guidance": guidance, "texts": counted.both}
    video = counted.run(audio=False, **settings)
    assert video.video.shape == counted.video.shape
    assert video.audio is None
    audio = counted.run(video=False, **settings)
    assert audio.audio.shape == counted.audio.shape
    assert audio.video is None
    assert torch.isfinite(audio.audio).all()


def test_a_clip_does_not_depend_on_its_batch(counted: Counted) -> None:
    both = counted.run(video_guidance=2.0, texts=Texts(counted.text, counted.negative))
    alone = counted.run(
        clips=slice(1, None), video_guidance=2.0, texts=Texts(counted.text[1:], counted.negative)
    )
    torch.testing.assert_close(both.video[1:], alone.video, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.audio[1:], alone.audio, atol=1e-4, rtol=1e-4)


def test_text_is_prepared_once(counted: Counted) -> None:
    calls: list[int] = []
    embedding = counted.model.get_submodule("video_model.text_embedding")
    hook = embedding.register_forward_hook(lambda *_: calls.append(1))
    counted.run(steps=5)
    hook.remove()
    assert calls == [1]


def test_a_first_frame_is_kept(counted: Counted) -> None:
    frame = noise_batch([8, 9], (4, 1, 4, 4), "video")
    out = counted.run(frame=frame)
    assert torch.equal(out.video[:, :, :1], frame)
    other = counted.run(frame=-frame)
    assert not torch.allclose(out.audio, other.audio, atol=1e-4)


def test_steps_are_reported_and_the_model_is_left_as_it_was(counted: Counted) -> None:
    seen: list[tuple[int, int]] = []
    counted.model.train()
    out = counted.run(on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert counted.model.training
    assert not out.video.requires_grad
    counted.model.eval()
    counted.run()
    assert not counted.model.training


def test_the_same_again(counted: Counted) -> None:
    first, again = counted.run(), counted.run()
    assert torch.equal(first.video, again.video)
    assert torch.equal(first.audio, again.audio)


def test_bf16_models_keep_float32_latents(counted: Counted) -> None:
    model = tiny_twin(spread=0.1).bfloat16()
    noise = {"video": counted.video, "audio": counted.audio}
    out = sample(model, noise, Texts(counted.text), SamplerSettings(steps=3))
    assert out.video is not None
    assert out.video.dtype == torch.float32
    want = counted.run().video
    assert float((out.video - want).norm() / want.norm()) < 3e-2


ONE = torch.zeros(1, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"video": False, "audio": False}, "neither video nor audio noise"),
        ({"video": False, "frame": torch.zeros(2, 4, 1, 4, 4)}, "without video noise"),
        ({"frame": torch.zeros(2, 4, 2, 4, 4)}, r"expected \[2, 4, 1, 4, 4\]"),
        ({"texts": Texts([torch.zeros(1, 10)] * 3)}, "3 texts for 2 clips"),
        ({"video_guidance": float("nan")}, "guidance is nan"),
        ({"solver": "heun"}, "unipc"),
        ({"skip_layers": [7], "video_guidance": 2.0, "texts": Texts([ONE], [ONE])}, "block 7"),
    ],
)
def test_wrong_settings_are_refused(counted: Counted, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        counted.run(**settings)
