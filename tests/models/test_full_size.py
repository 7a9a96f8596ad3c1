"""The same code at Ovi's size: its names, shapes and number of parameters, on the meta device."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from ovi_lab.models import Given, TwinDiT

FULL = {"dim": 3072, "ffn_dim": 14336, "num_heads": 24, "num_layers": 30}


@pytest.fixture(scope="module")
def full() -> TwinDiT:
    with torch.device("meta"):
        return TwinDiT(FULL | {"in_dim": 48}, FULL | {"in_dim": 20})


def released_keys(goldens: Path) -> dict[str, list[int]]:
    with gzip.open(goldens / "ovi_state_dict_keys.txt.gz", "rt") as f:
        rows = [line.rstrip("\n").split("\t") for line in f if not line.startswith("#")]
    return {name: json.loads(shape) for name, shape in rows}


def test_names_and_shapes_are_the_released_checkpoints(full: TwinDiT, goldens: Path) -> None:
    want = released_keys(goldens)
    assert len(want) == 2073
    assert {name: list(value.shape) for name, value in full.state_dict().items()} == want
    assert list(full.buffers()) == []


def test_number_of_parameters(full: TwinDiT) -> None:
    def count(*parts: str) -> int:
        return sum(p.numel() for name, p in full.named_parameters() if any(part in name for part in parts))

    assert count("") == 11_660_753_108
    assert count("video_model.") == 5_566_479_552
    assert count("audio_model.") == 6_094_273_556
    assert count("_fusion") == 1_133_383_680
    assert count(".ffn.") == 5_285_867_520
    assert count(".self_attn.", ".cross_attn.") == 5_665_443_840
    assert count("audio_model.patch_embedding") == 528_915_456


@pytest.mark.slow
def test_nothing_is_materialised(full: TwinDiT) -> None:
    assert all(p.is_meta for p in full.parameters())
    with torch.device("meta"):
        t, text = torch.empty(1), torch.empty(1, 20, 4096)
        given = {"t_video": t, "t_audio": t, "text_video": text, "text_audio": text}
        latents = (torch.empty(1, 48, 31, 44, 80), torch.empty(1, 157, 20))
        out = full(*latents, **given, given=Given.first_frame(latents[0]))
    assert out.video.shape == (1, 48, 31, 44, 80)
    assert out.audio.shape == (1, 157, 20)
    assert out.video.is_meta
