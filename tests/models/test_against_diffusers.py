"""The video tower against another implementation of the same architecture: diffusers' Wan transformer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import TINY_VIDEO
from ovi_lab.models import TwinDiT

OUTSIDE = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "patch_embedding": "patch_embedding",
    "proj_out": "head.head",
}
INSIDE = {
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_out.0": "cross_attn.o",
    "attn1.to_": "self_attn.",
    "attn2.to_": "cross_attn.",
    "attn1.": "self_attn.",
    "attn2.": "cross_attn.",
    "norm2.": "norm3.",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "scale_shift_table": "modulation.modulation",
}


def our_name(theirs: str) -> str:
    if theirs == "scale_shift_table":
        return "head.modulation"
    rules = INSIDE if theirs.startswith("blocks.") else OUTSIDE
    old = next(old for old in rules if old in theirs)
    return theirs.replace(old, rules[old], 1)


@pytest.mark.parametrize("batch", [1, 2])
def test_video_tower_equals_wan(batch: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    c = TINY_VIDEO
    wan = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=c["num_heads"],
        attention_head_dim=c["dim"] // c["num_heads"],
        in_channels=c["in_dim"],
        out_channels=c["in_dim"],
        text_dim=c["text_dim"],
        freq_dim=c["freq_dim"],
        ffn_dim=c["ffn_dim"],
        num_layers=c["num_layers"],
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wan.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g) + (parameter.dim() == 1))
    ours = TwinDiT(c, None)
    state: dict[str, Tensor] = {"video_model." + our_name(k): v for k, v in wan.state_dict().items()}
    ours.load_state_dict(state, strict=True)
    video = torch.randn(batch, 4, 3, 4, 6, generator=g)
    text = torch.randn(batch, c["text_len"], c["text_dim"], generator=g)
    t = torch.tensor([250.0, 900.0])[:batch]
    with torch.no_grad():
        want = wan(hidden_states=video, timestep=t, encoder_hidden_states=text, return_dict=False)[0]
        got = ours(video, t_video=t, text_video=text).video
    torch.testing.assert_close(got, want, atol=2e-5 * float(want.abs().max().clamp_min(1)), rtol=0)
