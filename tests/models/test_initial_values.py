"""Initial values: by the parameter's own name, in the reference's distributions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO, tiny_twin
from ovi_lab.models import TwinDiT, initialise_parameters

ARMS: dict[str, dict[str, Any]] = {
    "none": {"fusion": {"direction": "none"}},
    "audio_to_video": {"fusion": {"direction": "audio_to_video"}},
    "every_2": {"fusion": {"blocks": {"every": 2}}},
    "learned": {"rope": {"mode": "learned"}},
    "unscaled": {"rope": {"factor": 1.0}},
    "recomputed": {"activation_checkpointing": "full"},
    "audio alone": {"video": None},
}


@pytest.mark.parametrize("arm", ARMS)
def test_arms_share_every_value_they_have_in_common(arm: str) -> None:
    base = tiny_twin(init_seed=7).state_dict()
    other = TwinDiT(**{"video": TINY_VIDEO, "audio": TINY_AUDIO, "init_seed": 7} | ARMS[arm]).state_dict()
    shared = base.keys() & other.keys()
    assert len(shared) >= (85 if arm == "audio alone" else 170)
    assert all(torch.equal(base[name], other[name]) for name in shared)


def test_the_seed_alone_decides() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = tiny_twin(init_seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = tiny_twin(init_seed=1).state_dict(), tiny_twin(init_seed=2).state_dict()
    assert all(torch.equal(first[n], again[n]) for n in first)
    name = "video_model.blocks.0.ffn.0.weight"
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first["video_model.blocks.1.ffn.0.weight"])


def test_a_model_built_on_meta_is_filled_alike() -> None:
    with torch.device("meta"):
        model = tiny_twin(init_seed=3)
    assert all(p.is_meta for p in model.parameters())
    initialise_parameters(model, 3)
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    model.initialise(3)
    want = tiny_twin(init_seed=3).state_dict()
    assert all(torch.equal(value, want[name]) for name, value in model.state_dict().items())


def test_distributions() -> None:
    wide = {"dim": 128, "ffn_dim": 512, "num_heads": 4, "num_layers": 2, "text_dim": 256}
    p = dict(TwinDiT(wide | {"in_dim": 16}, wide | {"in_dim": 8}).named_parameters())

    def bound(name: str) -> float:
        return p[name].abs().max().item()

    for name in ("video_model.blocks.0.ffn.0.weight", "audio_model.time_projection.1.weight"):
        xavier = math.sqrt(6 / sum(p[name].shape))
        assert 0.98 * xavier < bound(name) <= xavier
        assert p[name].std().item() == pytest.approx(xavier / math.sqrt(3), rel=0.02)
    patch = math.sqrt(6 / (128 + 16 * 4))
    assert 0.98 * patch < bound("video_model.patch_embedding.weight") <= patch
    for name in ("video_model.text_embedding.0.weight", "audio_model.time_embedding.2.weight"):
        assert p[name].std().item() == pytest.approx(0.02, rel=0.03)
    assert p["video_model.blocks.1.modulation.modulation"].std().item() == pytest.approx(128**-0.5, rel=0.1)
    conv = (128 * 7) ** -0.5
    assert 0.98 * conv < bound("audio_model.patch_embedding.2.w1.weight") <= conv
    for name, value in p.items():
        zero = name.endswith("head.head.weight") or (
            name.endswith("bias") and "patch_embedding.0" not in name
        )
        assert (bound(name) == 0) == zero, name
        if name.endswith("weight") and "norm" in name:
            assert (value == 1).all(), name


@pytest.mark.parametrize(("fusion_init", "audio_divisor"), [("both", 10.0), ("reference", 1.0)])
def test_fusion_starts_small_in_both_towers_unless_the_reference_is_requested(
    fusion_init: str, audio_divisor: float
) -> None:
    p = dict(tiny_twin(fusion={"fusion_init": fusion_init}).named_parameters())
    xavier = math.sqrt(6 / (64 + 64))
    for tower, divisor in (("video_model", 10.0), ("audio_model", audio_divisor)):
        for leaf in ("k_fusion", "v_fusion"):
            largest = p[f"{tower}.blocks.1.cross_attn.{leaf}.weight"].abs().max().item()
            assert 0.95 * xavier / divisor < largest <= xavier / divisor
        assert p[f"{tower}.blocks.1.cross_attn.k.weight"].abs().max().item() > 0.95 * xavier


def test_a_fresh_model_predicts_zero() -> None:
    model = TwinDiT(TINY_VIDEO, None)
    out = model(torch.randn(1, 4, 2, 4, 4), t_video=torch.tensor([5.0]), text_video=[torch.randn(3, 10)])
    assert not out.video.any()
