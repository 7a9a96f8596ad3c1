"""Sampling beside a given modality: its work is done once, and how strongly the other follows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import tiny_twin
from ovi_lab.flow import SamplerSettings, Texts, noise_batch, sample
from ovi_lab.flow.guidance import GuidedVelocity
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import Modality

BOTH = ("video", "audio")
FRAMES, TOKENS = 3, 9
GUIDED = {"video_guidance": 4.0, "audio_guidance": 3.0}


class Clips:
    """Two clips of a tiny twin and what may be given of them."""

    def __init__(self, **options: Any) -> None:
        self.model = tiny_twin(spread=0.2, **options)
        g = torch.Generator().manual_seed(0)
        self.noise: dict[Modality, Tensor] = {
            "video": noise_batch([1, 2], (4, FRAMES, 4, 4), "video"),
            "audio": noise_batch([1, 2], (TOKENS, 3), "audio"),
        }
        self.clean: dict[Modality, Tensor] = {
            m: torch.randn(x.shape, generator=g) for m, x in self.noise.items()
        }
        lengths = ((6, 2), (1, 5), (3, 4))
        self.texts = Texts(*([torch.randn(n, 10, generator=g) for n in both] for both in lengths))

    def sampled(self, given: Given, **settings: Any) -> dict[str, Tensor]:
        chosen = SamplerSettings(**{"steps": 3, **settings})
        out = sample(self.model, self.noise, self.texts, chosen, given=given, clean=self.clean)
        return {m: getattr(out, m) for m in BOTH}


@pytest.fixture(scope="module")
def clips() -> Clips:
    return Clips()


def whole(modality: str) -> Given:
    masks = {"video": np.ones((2, FRAMES), bool), "audio": np.ones((2, TOKENS), bool)}
    return Given(**{modality: masks[modality]})


class Rows:
    """How many tokens go into a module, call by call."""

    def __init__(self, model: TwinDiT, *names: str) -> None:
        self.rows: dict[str, list[int]] = {name: [] for name in names}
        for name in names:
            model.get_submodule(name).register_forward_hook(
                lambda _m, args, _o, seen=self.rows[name]: seen.append(args[0].shape[:-1].numel())
            )


ONE_WAY = {"direction": "video_to_audio"}
MODELS: dict[str, dict[str, Any]] = {
    "both ways": {},
    "one way": {"fusion": ONE_WAY},
    "later blocks": {"fusion": {"direction": "bidirectional", "blocks": [1, 2]}},
    "none": {"fusion": {"direction": "none"}},
    "positions by clip": {"rope": {"mode": "clip_ratio"}},
}
PASSES: dict[str, dict[str, Any]] = {
    "unguided": {},
    "one batch": GUIDED,
    "one opening": GUIDED,
    "a block skipped": {**GUIDED, "skip_layers": [0]},
}


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("name", MODELS)
def test_what_no_step_changes_is_kept_to_the_bit(name: str, passes: str) -> None:
    clips = Clips(**MODELS[name])
    clips.model.shares_opening = passes == "one opening"
    for modality in BOTH:
        kept, anew = (
            clips.sampled(whole(modality), cache_given=on, **PASSES[passes]) for on in (True, False)
        )
        for m in BOTH:
            assert torch.equal(kept[m], anew[m]), m
        assert torch.equal(kept[modality], clips.clean[modality])


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["bidirectional", "video_to_audio"])
def test_compiled_blocks_take_what_is_kept(direction: str) -> None:
    plain, compiled = (
        Clips(fusion={"direction": direction}, **options)
        for options in ({}, {"compile": "blocks", "compile_backend": "eager"})
    )
    for kept in (True, False):
        one, other = (
            c.sampled(whole("video"), steps=1, cache_given=kept)["audio"] for c in (plain, compiled)
        )
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "module", "kept", "anew"),
    [
        # 2 clips with 12 video and 9 audio tokens each; 3 steps
        (None, "video_model.patch_embedding", [24], [24] * 3),
        (None, "video_model.blocks.0.self_attn.q", [24], [24] * 3),
        (None, "audio_model.blocks.0.cross_attn.k_fusion", [24], [24] * 3),
        (None, "video_model.blocks.1.self_attn.q", [24] * 3, [24] * 3),
        (None, "audio_model.blocks.1.cross_attn.k_fusion", [24] * 3, [24] * 3),
        (ONE_WAY, "video_model.blocks.2.self_attn.q", [24], [24] * 3),
        (ONE_WAY, "audio_model.blocks.2.cross_attn.v_fusion", [24], [24] * 3),
        (ONE_WAY, "video_model.blocks.2.ffn", [], []),
        (ONE_WAY, "audio_model.blocks.2.self_attn.q", [18] * 3, [18] * 3),
        ({"direction": "none"}, "video_model.blocks.0.self_attn.q", [], [24] * 3),
    ],
)
def test_what_runs_how_often(fusion: Any, module: str, kept: list[int], anew: list[int]) -> None:
    clips = Clips(fusion=fusion)
    seen = Rows(clips.model, module)
    for on, expected in ((True, kept), (False, anew)):
        seen.rows[module].clear()
        clips.sampled(whole("video"), cache_given=on)
        assert seen.rows[module] == expected


def test_nothing_is_prepared_where_a_part_is_left_to_generate(clips: Clips) -> None:
    part = Given(video=np.arange(FRAMES)[None].repeat(2, 0) < 2)
    texts = {m: list(clips.texts.positive) for m in BOTH}
    with torch.no_grad():
        assert clips.model.prepare_given(clips.noise, texts, part) == {}
        assert clips.model.prepare_given(clips.noise, texts, whole("audio")).keys() == {"audio"}
    assert clips.model.prepare_given(clips.noise, texts, whole("audio")) == {}  # with gradients
    gathered = Clips()
    gathered.model.gathers_blocks = True  # as FSDP2 has it
    with torch.no_grad():
        assert gathered.model.prepare_given(clips.noise, texts, whole("audio")) == {}


# ---- guidance by what is given


def velocities(clips: Clips, given: Given, **settings: Any) -> dict[Modality, Tensor]:
    """Of the first step."""
    latents = {m: given.hold(m, x, clips.clean[m]) for m, x in clips.noise.items()}
    chosen = SamplerSettings(**settings)
    with torch.no_grad():
        velocity = GuidedVelocity(clips.model, BOTH, 2, clips.texts, chosen, given)
        return velocity(latents, torch.tensor(600.0))


def alone(clips: Clips, modality: Modality, given: Given) -> Tensor:
    """The prediction of one tower, by the model's own call."""
    own: Any = {modality: given.hold(modality, clips.noise[modality], clips.clean[modality])}
    own |= {f"t_{modality}": torch.tensor(600.0), f"text_{modality}": list(clips.texts.positive)}
    with torch.no_grad():
        return getattr(clips.model(**own, given=given.only(modality)), modality)


def beginning() -> Given:
    """Of both modalities in the first clip, of the sound alone in the second."""
    video, audio = np.zeros((2, FRAMES), bool), np.zeros((2, TOKENS), bool)
    video[0, :1], audio[:, :3] = True, True
    return Given(video, audio)


@pytest.mark.parametrize("guided", [{}, GUIDED, {**GUIDED, "batch_passes": False}])
def test_the_formula_of_given_guidance(clips: Clips, guided: dict[str, Any]) -> None:
    """guided + (g - 1) (positive - its tower alone), for what is generated beside something given."""
    for given, clips_of in (
        (whole("video"), {"audio": [0, 1]}),
        (beginning(), {"video": [0, 1], "audio": [0]}),
    ):
        found = velocities(clips, given, given_guidance=2.5, **guided)
        plain, positive = velocities(clips, given, **guided), velocities(clips, given)
        assert found.keys() == plain.keys() == clips_of.keys()
        for m, follows in clips_of.items():
            want = plain[m].clone()
            want[follows] += 1.5 * (positive[m] - alone(clips, m, given))[follows]
            torch.testing.assert_close(found[m], want, atol=2e-5, rtol=1e-5)
            assert not torch.allclose(want[follows], plain[m][follows], atol=1e-3)


def test_without_it_no_pass_is_made_and_no_bit_moves(clips: Clips) -> None:
    calls: list[int] = []
    hook = clips.model.register_forward_hook(lambda *_: calls.append(1))
    plain = clips.sampled(whole("video"), **GUIDED)
    count, after = len(calls), clips.sampled(whole("video"), given_guidance=1.0, **GUIDED)
    assert len(calls) == 2 * count == 6
    assert torch.equal(plain["audio"], after["audio"])
    clips.sampled(whole("video"), given_guidance=2.0, **GUIDED)
    assert len(calls) == 12
    nothing = clips.sampled(Given(), given_guidance=2.0)
    hook.remove()
    assert len(calls) == 15
    assert torch.equal(nothing["video"], clips.sampled(Given())["video"])


def test_a_tower_that_does_not_read_what_is_given_is_not_guided_by_it() -> None:
    clips = Clips(fusion={"direction": "audio_to_video"})
    found, plain = (velocities(clips, whole("video"), given_guidance=g) for g in (3.0, 1.0))
    assert torch.equal(found["audio"], plain["audio"])
