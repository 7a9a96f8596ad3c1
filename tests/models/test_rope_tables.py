"""Rotary positions: tables, their application, and how audio positions meet video time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.twin_goldens import TINY_AUDIO, TINY_VIDEO, mean_squares, read_golden, tiny_batch, tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.models.rope import RopeTables, apply_rotation, audio_angles, axis_dims, rotation, video_angles

CPU = torch.device("cpu")
PAPER = 0.19676


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, Tensor]:
    return read_golden(goldens / "rope.safetensors")[0]


@pytest.mark.parametrize(("head_dim", "dims"), [(128, (44, 42, 42)), (32, (12, 10, 10)), (16, (8, 4, 4))])
def test_a_heads_channels_are_divided_among_time_rows_and_columns(
    head_dim: int, dims: tuple[int, ...]
) -> None:
    assert axis_dims(head_dim) == dims
    assert sum(dims) == head_dim


@pytest.mark.parametrize("factor", [PAPER, 1.0])
def test_audio_tables_match_the_reference(golden: dict[str, Tensor], factor: float) -> None:
    angles = audio_angles([1024], 1024, 128, 1e4, CPU)[0] * factor
    pairs = axis_dims(128)[0] // 2
    torch.testing.assert_close(angles[:64, :pairs].cos(), golden[f"audio_{factor}.cos"], atol=1e-12, rtol=0)
    torch.testing.assert_close(angles[:64, :pairs].sin(), golden[f"audio_{factor}.sin"], atol=1e-12, rtol=0)
    assert not angles[:, pairs:].any()
    if factor == PAPER:
        far = angles[golden[f"audio_{factor}.pos"], :pairs]
        torch.testing.assert_close(far.cos(), golden[f"audio_{factor}.cos_at_pos"], atol=1e-12, rtol=0)
        torch.testing.assert_close(far.sin(), golden[f"audio_{factor}.sin_at_pos"], atol=1e-12, rtol=0)


def test_video_tables_match_the_reference(golden: dict[str, Tensor]) -> None:
    # The stored table is by position; a clip that is a line along one axis shows that axis's part of it.
    (frames, rows, _), want = axis_dims(128), golden["video.cos"]
    first, second = frames // 2, (frames + rows) // 2
    for grid, part in (
        ((64, 1, 1), slice(0, first)),
        ((1, 64, 1), slice(first, second)),
        ((1, 1, 64), slice(second, 64)),
    ):
        angles = video_angles([grid], 64, 128, 1e4, CPU)[0]
        torch.testing.assert_close(angles[:, part].cos(), want[:, part], atol=1e-12, rtol=0)
        torch.testing.assert_close(angles[:, part].sin(), golden["video.sin"][:, part], atol=1e-12, rtol=0)


def test_application_matches_the_reference_and_leaves_padding_alone(golden: dict[str, Tensor]) -> None:
    q, want = golden["apply1d.q"], golden["apply1d.out"]
    table = rotation(audio_angles([17], q.shape[1], 128, 1e4, CPU) * PAPER)
    torch.testing.assert_close(apply_rotation(q, table), want, atol=2e-5, rtol=0)
    q, want = golden["apply3d.q"], golden["apply3d.out"]
    grids = [(f, h, w) for f, h, w in golden["apply3d.grid"].tolist()]
    table = rotation(video_angles(grids, q.shape[1], 128, 1e4, CPU))
    turned = apply_rotation(q, table)
    torch.testing.assert_close(turned, want, atol=2e-5, rtol=0)
    assert torch.equal(turned[:, 24:], q[:, 24:])


def test_float32_tables_hold_far_positions() -> None:
    """Angles are made in float64: at position 20,000 float32 angles would be off by a thousandth."""
    table = rotation(audio_angles([20_001], 20_001, 128, 1e4, CPU))[0, 20_000, 0]
    exact = 20_000 * 1e4 ** (-torch.arange(0, 44, 2, dtype=torch.float64) / 44)
    torch.testing.assert_close(table[:22, 0].double(), exact.cos(), atol=1e-7, rtol=0)


def test_positions_of_both_towers_in_seconds() -> None:
    """Sixteen frames and 80 tokens in two seconds: frame n and token 5 n have one angle, of their time in seconds."""
    tables = RopeTables(32, 1e4, video_factor=1 / 8)
    video = tables.video([(16, 1, 1)], CPU)[0, :, 0]
    audio = tables.audio([80], [1 / 40], CPU)[0, :, 0]
    of_frames = 32 // 2 - 2 * (2 * (32 // 6) // 2)
    torch.testing.assert_close(video[:, :of_frames], audio[::5, :of_frames], atol=1e-6, rtol=0)
    assert video[8, 0, 0] == pytest.approx(math.cos(1.0))
    rows = RopeTables(32, 1e4, video_factor=1 / 8).video([(1, 4, 1)], CPU)[0, :, 0]
    assert torch.equal(rows, RopeTables(32, 1e4).video([(1, 4, 1)], CPU)[0, :, 0]), "rows are not scaled"


def test_bf16_is_turned_in_float32() -> None:
    x = torch.randn(1, 300, 2, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    table = RopeTables(32, 1e4).video([(300, 1, 1)], CPU)
    assert torch.equal(apply_rotation(x, table), apply_rotation(x.float(), table).bfloat16())


def test_the_arithmetic_for_the_compiler_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real where it is compiled, complex where it is not: equal digits."""
    x = torch.randn(2, 12, 3, 32, generator=torch.Generator().manual_seed(0))
    table = RopeTables(32, 1e4).video([(3, 2, 2)], CPU)
    plain = apply_rotation(x, table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(apply_rotation(x, table), plain)


def test_tables_are_made_once_by_shape_and_forgotten_when_many() -> None:
    tables = RopeTables(32, 1e4, capacity=2)
    first = tables.video([(2, 2, 2)] * 5, CPU)
    assert first.shape == (1, 8, 1, 16, 2)
    assert tables.video([(2, 2, 2)], CPU) is first
    assert tables.video([(2, 2, 2), (1, 2, 2)], CPU).shape == (2, 8, 1, 16, 2)
    tables.audio([5, 5], [PAPER, PAPER], CPU)
    assert tables.video([(2, 2, 2)], CPU) is not first


def test_tables_made_in_inference_mode_can_be_trained_with() -> None:
    model = tiny_twin(spread=0.1)
    batch = tiny_batch()
    with torch.inference_mode():
        model(**batch)
    out = model(**batch)
    (out.video.sum() + out.audio.sum()).backward()
    assert model.get_parameter("audio_model.blocks.0.self_attn.q.weight").grad is not None


def test_clip_ratio_is_each_clips_own() -> None:
    ratio = TwinDiT(TINY_VIDEO, TINY_AUDIO, rope={"mode": "clip_ratio"})
    tiny = tiny_twin(spread=0.2, rope={"mode": "clip_ratio"})
    ratio.load_state_dict(tiny.state_dict())
    g = torch.Generator().manual_seed(5)
    videos = [torch.randn(4, frames, 4, 4, generator=g) for frames in (3, 5)]
    audios = [torch.randn(tokens, 3, generator=g) for tokens in (13, 8)]
    texts = list(torch.randn(2, 5, 10, generator=g))
    t = torch.tensor([300.0, 700.0])
    with torch.no_grad():
        both = ratio(videos, audios, t_video=t, t_audio=t, text_video=texts, text_audio=texts)
        for i, (frames, tokens) in enumerate(((3, 13), (5, 8))):
            alone = TwinDiT(TINY_VIDEO, TINY_AUDIO, rope={"factor": frames / tokens})
            alone.load_state_dict(tiny.state_dict())
            text = texts[i : i + 1]
            one = {"t_video": t[i], "t_audio": t[i], "text_video": text, "text_audio": text}
            out = alone(videos[i : i + 1], audios[i : i + 1], **one)
            torch.testing.assert_close(both.video[i], out.video[0], atol=2e-5, rtol=0)
            torch.testing.assert_close(both.audio[i], out.audio[0], atol=2e-5, rtol=0)
    # Without video there is no ratio: the factor of the configuration stands in.
    constant = TwinDiT(TINY_VIDEO, TINY_AUDIO)
    constant.load_state_dict(tiny.state_dict())
    first = [m(None, audios, t_audio=t, text_audio=texts).audio[0] for m in (ratio, constant)]
    assert torch.equal(*first)


def test_learned_scale_is_one_parameter_that_learns() -> None:
    model = tiny_twin(spread=0.2, rope={"mode": "learned", "factor": 0.7})
    plain = tiny_twin(rope={"factor": 0.7})
    assert set(model.state_dict()) - set(plain.state_dict()) == {"audio_model.rope_scale"}
    fresh = TwinDiT(TINY_VIDEO, TINY_AUDIO, rope={"mode": "learned", "factor": 0.7})
    assert fresh.get_parameter("audio_model.rope_scale").tolist() == pytest.approx([0.7])
    batch = tiny_batch()

    def loss() -> Tensor:
        return mean_squares(model(**batch))

    loss().backward()
    scale = model.get_parameter("audio_model.rope_scale")
    assert scale.grad is not None
    slope = scale.grad.item()
    with torch.no_grad():
        model.double()
        values = []
        for step in (1e-4, -1e-4):
            scale = model.get_parameter("audio_model.rope_scale")
            scale.add_(step)
            values.append(loss().item())
            scale.sub_(step)
    assert slope == pytest.approx((values[0] - values[1]) / 2e-4, rel=2e-2)
    assert slope != 0


def test_learned_scale_equals_a_constant_of_its_value() -> None:
    learned = tiny_twin(spread=0.2, rope={"mode": "learned"})
    constant = TwinDiT(TINY_VIDEO, TINY_AUDIO)
    state = learned.state_dict()
    factor = state.pop("audio_model.rope_scale").item()
    constant.load_state_dict(state)
    constant.set_audio_rope_factor(factor)
    a, b = learned(**tiny_batch()), constant(**tiny_batch())
    torch.testing.assert_close(a.video, b.video, atol=1e-6, rtol=0)
    torch.testing.assert_close(a.audio, b.audio, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rope", [{}, {"mode": "clip_ratio"}, {"mode": "learned"}])
def test_the_factor_can_be_changed_for_sampling_only(rope: dict[str, str]) -> None:
    model = tiny_twin(spread=0.2, rope=rope)
    batch = tiny_batch()
    with torch.no_grad():
        before = model(**batch)
        model.set_audio_rope_factor(0.5)
        changed = model(**batch)
        model.set_audio_rope_factor(None)
        after = model(**batch)
    assert torch.equal(before.video, after.video)
    assert not torch.allclose(before.video, changed.video, atol=1e-4)
    half = tiny_twin(spread=0.2, rope={"factor": 0.5})
    state = {k: v for k, v in model.state_dict().items() if k != "audio_model.rope_scale"}
    half.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(half(**batch).audio, changed.audio)
    with pytest.raises(UserError, match="audio RoPE factor"):
        model.set_audio_rope_factor(-1.0)


def test_simultaneous_tokens_have_one_position() -> None:
    """With factor = frames / tokens, a query of the video agrees most with the audio of its own time."""
    tables = RopeTables(128, 1e4)
    video = tables.video([(31, 1, 1)], CPU)
    ones = torch.ones(1, 157, 1, 128)
    q = apply_rotation(ones[:, :31], video)[0, :, 0, :44]

    def best(factor: float) -> Tensor:
        k = apply_rotation(ones, tables.audio([157], [factor], CPU))[0, :, 0, :44]
        return (q @ k.T).argmax(dim=1)

    frames = torch.arange(31)
    assert ((best(31 / 157) - frames * 157 / 31).abs() <= 0.5).all()
    assert torch.equal(best(1.0), frames)
