"""Counted FLOPs against PyTorch's own counter on the real model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ovi_lab.models import Given, TwinDiT
from ovi_lab.optim.freezing import FreezeRule
from ovi_lab.planning.activations import META
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.flops import count_flops
from ovi_lab.planning.live_memory import as_trained

VIDEO = {
    "dim": 48,
    "num_heads": 4,
    "num_layers": 3,
    "ffn_dim": 96,
    "in_dim": 6,
    "text_len": 7,
    "text_dim": 20,
}
AUDIO = VIDEO | {"dim": 36, "num_heads": 3, "in_dim": 5, "patch_hidden_dim": 40}
CLIP = ClipShape(video=(3, 4, 6), audio=17)


def measured(
    model: TwinDiT, clips: int = 2, first_frame: bool = False, text: bool = False
) -> tuple[int, int]:
    """FLOPs of forward and backward by PyTorch's counter; attention as plain products.

    On no device: a CPU looks up the modulation of a few tokens by products, which are no work of the model.
    """
    model = model.to(META)
    given: dict[str, Any] = {}
    for modality in model.tower_configs:
        shape = (6, 3, 4, 6) if modality == "video" else (17, 5)
        given[modality] = torch.empty(clips, *shape, device=META)
        given[f"t_{modality}"] = torch.empty(clips, device=META)
        given[f"text_{modality}"] = torch.empty(clips, 4, 20, requires_grad=text, device=META)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            held = Given.first_frame(given["video"]) if first_frame else None
            out = model(**given, given=held)
            loss = sum(x.square().mean() for x in (out.video, out.audio) if x is not None)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


CASES = {
    "all": {},
    "ffn frozen": {"frozen": [r"\.ffn\."]},
    "attention only": {"trained": [r"\.self_attn\.", r"\.cross_attn\."]},
    "fusion only": {"trained": [r"_fusion\."]},
    "last block": {"trained": [r"\.blocks\.2\.ffn\.2\."]},
    "video frozen": {"frozen": ["^video_model"]},
    "biases": {"trained": [r"\.cross_attn\.q\.bias"]},
}


FUSIONS: list[dict[str, Any]] = [
    {},
    {"direction": "none"},
    {"direction": "audio_to_video", "blocks": [1]},
    {"blocks": {"every": 2}},
]


@pytest.mark.parametrize(
    ("fusion", "rule"),
    [
        pytest.param(fusion, rule, id=f"{fusion}-{name}")
        for fusion in FUSIONS
        for name, rule in CASES.items()
        if not (name == "fusion only" and fusion.get("direction") == "none")  # nothing would be trained
    ],
)
def test_counts_what_pytorch_counts(fusion: dict[str, Any], rule: dict[str, Any]) -> None:
    model = TwinDiT(VIDEO, AUDIO, fusion=fusion)
    FreezeRule(**rule).apply(model)
    counted = count_flops(model, CLIP, clips=2)
    assert (sum(counted.forward.values()), sum(counted.backward.values())) == measured(model)


def test_one_tower_learned_positions_trained_text_and_a_given_first_frame() -> None:
    audio = TwinDiT(None, AUDIO | {"patch_hidden_dim": 0}, rope={"mode": "learned"})
    FreezeRule(trained=("rope_scale",)).apply(audio)
    counted = count_flops(audio, CLIP, clips=2)
    assert counted.forward["video"] == 0
    assert (counted.forward["audio"], counted.backward["audio"]) == measured(audio)

    both = TwinDiT(VIDEO, AUDIO, rope={"mode": "learned"})
    FreezeRule(trained=("rope_scale",)).apply(both)
    counted = count_flops(both, CLIP, clips=2, first_frame_clean=True, text_is_trained=True)
    assert counted.model == sum(measured(both, first_frame=True, text=True))


@pytest.mark.parametrize("rule", [{}, {"frozen": [r"\.ffn\."]}, {"trained": [r"\.self_attn\."]}], ids=str)
@pytest.mark.parametrize("choice", ["none", "full", "attention", "matmul"])
def test_recomputed_products_are_counted_apart(choice: str, rule: dict[str, Any]) -> None:
    with META:
        towers = (tower | {"num_layers": 2} for tower in (VIDEO, AUDIO))
        model = TwinDiT(*towers, activation_checkpointing=choice)
        given = {"video": torch.empty(2, 6, 3, 4, 6), "audio": torch.empty(2, 17, 5)}
        text = torch.empty(2, 4, 20)
    FreezeRule(**rule).apply(model)
    t = torch.empty(2, device=META)
    with as_trained("cuda"), FlopCounterMode(display=False) as counter:
        out = model(**given, t_video=t, t_audio=t, text_video=text, text_audio=text)
        (out.video.square().mean() + out.audio.square().mean()).backward()
    # the last product of a block is not made again where nothing needs it
    assert count_flops(model, CLIP, clips=2).hardware == pytest.approx(counter.get_total_flops(), rel=0.05)
