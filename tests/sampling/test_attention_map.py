"""What the towers look at in each other: the model's own weights, in rows that sum to 1, and the picture of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings
from ovi_lab.models import TwinDiT
from ovi_lab.models.attention import sdpa_attention
from ovi_lab.sampling.attention_map import AttentionMap, attention_map, attention_png, main
from ovi_lab.sampling.opening import open_bundle
from ovi_lab.sampling.pipeline import Options, OviPipeline
from ovi_lab.sampling.requests import Request
from ovi_lab.sampling.small_weights import MODEL

REQUEST = Request("clip", "rain. Audio: soft rain", 0)
FRAMES = 7


@pytest.fixture
def pipeline(small_ovi: Path) -> OviPipeline:
    bundle = open_bundle(small_ovi, length=FRAMES / 31)
    return OviPipeline.load(bundle, SamplerSettings(steps=1), Options())


def with_fusion(pipeline: OviPipeline, direction: str) -> OviPipeline:
    towers = TwinDiT(**MODEL | {"fusion": {"direction": direction}}).eval()
    pipeline.parts = dataclasses.replace(pipeline.parts, towers=towers)
    return pipeline


def test_the_rows_are_what_attention_itself_weighs(pipeline: OviPipeline) -> None:
    last: list[torch.Tensor] = []
    for block in pipeline.parts.towers.tower("audio").each_block():

        def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: None) -> torch.Tensor:
            # the weights are what attention makes of values that are one key each
            one_key_each = torch.eye(k.shape[1])[None, :, None].expand(1, -1, k.shape[2], -1)
            last.append(sdpa_attention(q, k, one_key_each, mask)[0].mean(1))
            return sdpa_attention(q, k, v, mask)

        block.cross_attn.attend_other = watched
    found = attention_map(pipeline, REQUEST)
    L, F = found.sound_to_picture.shape
    assert F == FRAMES
    assert found.picture_to_sound.shape == (F, L)
    assert found.frames_per_token == F / L
    for rows in (found.sound_to_picture, found.picture_to_sound):
        assert torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=1e-5)
        assert rows.std() > 0
    layers = MODEL["audio"]["num_layers"]
    weights = torch.stack(last[-layers:]).mean(0)
    assert torch.allclose(found.sound_to_picture, weights.unflatten(1, (F, -1)).sum(-1), atol=1e-5)


def test_the_model_is_left_as_it_was(pipeline: OviPipeline) -> None:
    blocks = [b for m in ("video", "audio") for b in pipeline.parts.towers.tower(m).each_block()]
    before = [block.cross_attn.attend_other for block in blocks]
    first, again = attention_map(pipeline, REQUEST), attention_map(pipeline, REQUEST)
    assert [block.cross_attn.attend_other for block in blocks] == before
    assert torch.equal(first.sound_to_picture, again.sound_to_picture)


def test_near_is_the_share_within_a_frame_of_the_same_moment() -> None:
    # 8 audio tokens over 4 frames: each looks at the frame of its own moment, the frames at all tokens alike
    own = torch.eye(4).repeat_interleave(2, 0)
    found = AttentionMap("a", own, torch.full((4, 8), 1 / 8), frames_per_token=0.5).near()
    assert found["sound reads picture"][0] == 1
    assert found["picture reads sound"][0] == pytest.approx(found["picture reads sound"][1])


def test_one_direction_alone_and_none(pipeline: OviPipeline) -> None:
    found = attention_map(with_fusion(pipeline, "audio_to_video"), REQUEST)
    assert found.sound_to_picture is None
    assert list(found.near()) == ["picture reads sound"]
    assert attention_png([found])[1:4] == b"PNG"
    with pytest.raises(UserError, match=r"small has no exchange between towers: choose a model with fusion"):
        attention_map(with_fusion(pipeline, "none"), REQUEST)


@pytest.mark.slow
def test_the_command_writes_the_picture(
    small_ovi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps.png"
    assert main([str(small_ovi), "--steps", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("small: sound reads picture: 0.")
    assert printed[-1] == str(out)
    with Image.open(out) as picture:
        assert picture.width > 400
        assert picture.height > 2 * 300


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--sigma", "2"], "--sigma is 2.0; expected 0 (data) to 1 (noise)"),
        (["--steps", "0"], "--steps is 0: expected at least 1"),
        ([], "nowhere"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere", *arguments]) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]
