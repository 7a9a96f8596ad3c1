"""8-bit weights: what is converted, how much smaller it is, and how little the predictions change."""

import sys

import pytest
import torch

from ovi_lab.errors import UserError
from ovi_lab.flow import SamplerSettings, Texts, sample
from ovi_lab.models import TwinDiT
from ovi_lab.sampling.offload import Placement
from ovi_lab.sampling.quantise import MAX_RELATIVE_CHANGE, linear_names, quantise, stored_bytes

TOWER = {"num_heads": 2, "num_layers": 2, "text_len": 8, "text_dim": 12, "freq_dim": 16}


def make_model(dim: int = 48, ffn_dim: int = 96, **tower: int) -> TwinDiT:
    settings = {**TOWER, "dim": dim, "ffn_dim": ffn_dim, **tower}
    audio = {**settings, "in_dim": 5, "patch_hidden_dim": 16}
    model = TwinDiT(video={**settings, "in_dim": 4}, audio=audio).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for head in (model.tower("video").head.head, model.tower("audio").head.head):
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * 0.05)  # they start at 0
    return model


def inputs(text_len: int = 8, text_dim: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    text = (1, text_len, text_dim)
    shapes = {"video": (1, 4, 3, 8, 8), "audio": (1, 20, 5), "text_video": text, "text_audio": text}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return made | {"t_video": torch.tensor([600.0]), "t_audio": torch.tensor([600.0])}


def change(after: torch.Tensor, before: torch.Tensor) -> float:
    return float((after.float() - before.float()).norm() / before.float().norm())


@pytest.fixture
def torchao() -> None:
    pytest.importorskip("torchao", reason="torchao is not installed: 8-bit weights are not tested here")


def test_linear_names_are_the_blocks_linears_alone() -> None:
    with torch.device("meta"):
        model = make_model_on_meta()
    names = linear_names(model)
    per_block = 4 + 4 + 2 + 2  # self-attention, cross-attention, fusion, feed-forward
    assert len(names) == 2 * 2 * per_block
    assert all(".blocks." in name for name in names)
    assert "video_model.blocks.1.cross_attn.k_fusion" in names


def make_model_on_meta() -> TwinDiT:
    settings = {**TOWER, "dim": 48, "ffn_dim": 96}
    return TwinDiT(video={**settings, "in_dim": 4}, audio={**settings, "in_dim": 5})


@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_predictions_change_less_than_the_tolerance(dtype: torch.dtype) -> None:
    model = make_model(192, 512, text_len=32, text_dim=64, num_heads=4, num_layers=4).to(dtype)
    given = inputs(32, 64)
    before = model(**given)
    assert quantise(model) is model
    after = model(**given)
    for modality in ("video", "audio"):
        moved = change(getattr(after, modality), getattr(before, modality))
        assert 0 < moved < MAX_RELATIVE_CHANGE


@pytest.mark.usefixtures("torchao")
@torch.no_grad()
def test_a_sampled_clip_stays_close() -> None:
    model, text = make_model(96, 192), [torch.randn(5, 12, generator=torch.Generator().manual_seed(1))]
    given = inputs()
    noise, texts = {m: given[m] for m in ("video", "audio")}, Texts(text, text, text)
    guided = SamplerSettings(steps=6, video_guidance=4.0, audio_guidance=3.0)
    before = sample(model, noise, texts, guided)
    after = sample(quantise(model), noise, texts, guided)
    assert 0 < change(after.video, before.video) < MAX_RELATIVE_CHANGE
    assert 0 < change(after.audio, before.audio) < MAX_RELATIVE_CHANGE


@pytest.mark.usefixtures("torchao")
def test_bytes_are_one_a_number_and_a_scale_a_row() -> None:
    model = make_model()
    before, converted = stored_bytes(model), [model.get_submodule(n) for n in linear_names(model)]
    saved = sum(3 * layer.weight.numel() - 5 * layer.out_features for layer in converted)
    quantise(model)
    # a row keeps a float32 scale and an int8 zero point, which is 0
    assert stored_bytes(model) == before - saved
    assert model.tower("video").head.head.weight.dtype == torch.float32


@pytest.mark.usefixtures("torchao")
@torch.no_grad()
def test_a_quantised_model_is_offloaded_like_any_other() -> None:
    model, given = quantise(make_model()), inputs()
    alone = model(**given)
    with Placement("cpu", "blocks").working(model):
        assert torch.equal(model(**given).video, alone.video)
    with Placement("meta", "blocks").working(model):
        model(**{name: value.to("meta") for name, value in given.items()})
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert torch.equal(model(**given).audio, alone.audio)


def test_without_torchao_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match=r"needs the package torchao .*: pip install .*\[quant\]'"):
        quantise(make_model_on_meta())


def test_shared_storage_counts_once() -> None:
    layer = torch.nn.Linear(4, 3)
    layer.register_buffer("again", layer.weight.data)
    both = torch.nn.Sequential(layer, layer)
    assert stored_bytes(both) == 4 * (12 + 3)
