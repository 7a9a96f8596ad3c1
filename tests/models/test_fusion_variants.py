"""Each way of fusing changes what it should, and only that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO, tiny_batch, tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.models import FusionConfig, TwinDiT

READS = {
    "bidirectional": (True, True),
    "none": (False, False),
    "audio_to_video": (True, False),
    "video_to_audio": (False, True),
}


def fused_parameters(model: TwinDiT, modality: str) -> set[str]:
    return {n for n, _ in model.named_parameters() if "_fusion" in n and n.startswith(modality)}


def responses(model: TwinDiT) -> tuple[bool, bool]:
    """Whether the video output follows the audio input, and the audio output the video input."""
    batch = tiny_batch()
    other = tiny_batch(seed=1)
    with torch.no_grad():
        base = model(**batch)
        other_audio = model(**(batch | {"audio": other["audio"]}))
        other_video = model(**(batch | {"video": other["video"]}))
    return not torch.equal(base.video, other_audio.video), not torch.equal(base.audio, other_video.audio)


@pytest.mark.parametrize("direction", READS)
def test_a_tower_follows_what_it_reads_and_nothing_else(direction: str) -> None:
    model = tiny_twin(spread=0.2, fusion={"direction": direction})
    assert responses(model) == READS[direction]
    for modality, reads in zip(("video", "audio"), READS[direction], strict=True):
        assert len(fused_parameters(model, modality)) == (3 * 7 if reads else 0)
    # and what is not read gets no gradient of the other's loss
    model(**tiny_batch()).video.square().mean().backward()
    reached = any(p.grad is not None for n, p in model.named_parameters() if n.startswith("audio_model"))
    assert reached == READS[direction][0]


def test_no_fusion_is_both_towers_alone() -> None:
    model = tiny_twin(spread=0.2, fusion={"direction": "none"})
    batch = tiny_batch()
    with torch.no_grad():
        both = model(**batch)
        video = model(batch["video"], t_video=batch["t_video"], text_video=batch["text_video"])
        audio = model(None, batch["audio"], t_audio=batch["t_audio"], text_audio=batch["text_audio"])
    assert torch.equal(both.video, video.video)
    assert torch.equal(both.audio, audio.audio)
    assert video.audio is None
    assert audio.video is None


@pytest.mark.parametrize(
    ("blocks", "fused"),
    [
        ("all", {0, 1, 2}),
        ({"every": 2}, {0, 2}),
        ({"every": 5}, {0}),
        ([1], {1}),
        ([2, 0, 2], {0, 2}),
        ([], set()),
    ],
)
def test_the_blocks_that_fuse(blocks: Any, fused: set[int]) -> None:
    model = tiny_twin(spread=0.2, fusion={"blocks": blocks})
    for modality in ("video", "audio"):
        held = {int(name.split(".")[2]) for name in fused_parameters(model, modality)}
        assert held == fused
    assert responses(model) == (bool(fused), bool(fused))


def test_fusion_of_one_block_reads_the_stream_after_that_blocks_self_attention() -> None:
    """With the last block alone fused, the video sees exactly what the audio stream is there."""
    model = tiny_twin(spread=0.2, fusion={"direction": "audio_to_video", "blocks": [2]})
    seen: dict[str, Tensor] = {}
    last = model.twin_blocks[2]
    last.video.cross_attn.pre_attn_norm_fusion.register_forward_hook(
        lambda _m, args, _out: seen.update(read=args[0])
    )
    last.audio.norm3.register_forward_hook(lambda _m, args, _out: seen.update(stream=args[0]))
    with torch.no_grad():
        model(**tiny_batch())
    assert torch.equal(seen["read"], seen["stream"])


def test_towers_of_different_width_fuse() -> None:
    wide = TINY_VIDEO | {"dim": 96, "num_heads": 3}
    model = TwinDiT(wide, TINY_AUDIO)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert model.get_parameter("video_model.blocks.0.cross_attn.k_fusion.weight").shape == (96, 64)
    assert responses(model) == (True, True)


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        ({"direction": "sideways"}, "expected bidirectional, none, audio_to_video or video_to_audio"),
        ({"blocks": [3]}, "block 3; this model has blocks 0 to 2"),
        ({"blocks": ["x"]}, "or a list of block indices from 0"),
        ({"blocks": {"each": 2}}, "{every: k} with k of at least 1"),
        ({"blocks": {"every": 0}}, "at least 1"),
        ({"blocks": "some"}, "all"),
        ({"blocks": 3}, "all, {every: k}"),
        ({"fusion_init": "neither"}, "both or reference"),
        ({"directions": "none"}, "did you mean direction? Valid: blocks, direction, fusion_init"),
    ],
)
def test_wrong_settings_are_refused_with_the_valid_ones(fusion: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        tiny_twin(fusion=fusion)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_fusion_needs_two_towers() -> None:
    with pytest.raises(UserError, match="one tower"):
        TwinDiT(TINY_VIDEO, None, fusion={"direction": "bidirectional"})
    assert TwinDiT(TINY_VIDEO, None).fusion_config == FusionConfig(direction="none")
