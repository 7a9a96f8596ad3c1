"""LoRA on the twin model: what it changes, what it trains, its file, and the weights it is merged into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.twin_goldens import tiny_batch, tiny_twin
from ovi_lab.adapters import (
    LoraSettings,
    LoraValues,
    MergedWeights,
    add_lora,
    load_adapter,
    merge_lora,
    save_adapter,
)
from ovi_lab.adapters.lora import adapted_layers, adapter_state
from ovi_lab.adapters.settings import TARGETS, base_name
from ovi_lab.errors import UserError
from ovi_lab.models import TwinDiT
from ovi_lab.weights.tensor_files import TensorFiles

SETTINGS: dict[str, Any] = {"rank": 4, "alpha": 8, "targets": ["attention", "fusion"]}


def twin(**options: Any) -> TwinDiT:
    return tiny_twin(spread=0.2, **options)


def trained_twin(**settings: Any) -> TwinDiT:
    """A model whose adapter has learned something: noise."""
    model = twin()
    add_lora(model, SETTINGS | settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in adapter_state(model).values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


def predicted(model: TwinDiT) -> dict[str, Tensor]:
    with torch.no_grad():
        out = model(**tiny_batch())
    return {"video": out.video, "audio": out.audio}


def test_a_fresh_adapter_changes_nothing_and_draws_from_no_global_generator() -> None:
    model = twin()
    before = predicted(model)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    add_lora(model, SETTINGS | {"targets": ["all_linear"], "dropout": 0.5})
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    assert all(torch.equal(before[m], value) for m, value in predicted(model).items())


@pytest.mark.parametrize("choice", ["none", "full", "attention", "matmul"])
def test_the_adapter_alone_is_trained(choice: str) -> None:
    model = twin(activation_checkpointing=choice)
    own = set(model.state_dict())
    trained, total = add_lora(model, SETTINGS)
    assert total == sum(p.numel() for p in model.parameters())
    assert trained == sum(v.numel() for v in adapter_state(model).values())
    assert {base_name(n) for n in model.state_dict() if ".lora_" not in n} == own
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        out = model(**tiny_batch())
        loss = out.video.square().mean() + out.audio.square().mean()
        loss.backward()
        assert all((p.grad is not None) == (".lora_" in n) for n, p in model.named_parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.slow
def test_targets_by_name_and_by_expression() -> None:
    def layers(*targets: str) -> int:
        model = twin()
        add_lora(model, {"rank": 2, "targets": list(targets)})
        return len(adapted_layers(model))

    # 3 blocks of 2 towers: 4 + 4 projections, 2 of the fusion, 2 of the feed-forward
    counts = {name: layers(name) for name in TARGETS}
    assert counts == {"attention": 48, "fusion": 12, "ffn": 12, "all_linear": 72}
    assert layers("fusion", "ffn") == 24
    assert layers(r"audio_model.*self_attn\.q$") == 3


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    def values(seed: int, *targets: str) -> dict[str, Tensor]:
        model = twin()
        add_lora(model, {"rank": 4, "targets": list(targets)}, seed)
        return adapter_state(model)

    one, more, other = values(1, "fusion"), values(1, "fusion", "ffn"), values(2, "fusion")
    assert all(torch.equal(more[n], v) for n, v in one.items())
    for name, value in one.items():
        if ".lora_B." in name:
            assert not value.any()
        else:
            assert not torch.equal(other[name], value)
            assert 0.9 * value.shape[1] ** -0.5 < value.abs().max() <= value.shape[1] ** -0.5
    assert not torch.equal(*[v for n, v in one.items() if ".lora_A." in n][:2])


@pytest.mark.slow
def test_a_model_on_meta_is_filled_alike() -> None:
    """As a run fills it: the model's own values by their released names, the adapter's by its own."""
    want = twin()
    own = want.state_dict()
    add_lora(want, SETTINGS, seed=3)
    with torch.device("meta"):
        model = tiny_twin()
    add_lora(model, SETTINGS, seed=3)
    assert all(p.is_meta for p in model.parameters())
    values = LoraValues(lambda name, *_: own[name], seed=3)
    for name, expected in want.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        assert torch.equal(values(name, model.get_submodule(owner), leaf), expected)


def test_merged_weights_predict_what_the_adapter_does(tmp_path: Path) -> None:
    model = trained_twin()
    before, names = predicted(model), set(twin().state_dict())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    merge_lora(model)
    assert set(model.state_dict()) == names
    for modality, value in predicted(model).items():
        torch.testing.assert_close(value, before[modality], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(value, predicted(twin())[modality], atol=1e-2)
    # The same, merged while a checkpoint is read.
    weights = MergedWeights(TensorFiles.open(tmp_path / "model.safetensors"), SETTINGS)
    assert weights.tensors.keys() == names
    merged = dict(weights.stream())
    assert all(torch.equal(merged[n], v) for n, v in model.state_dict().items())
    (one,) = weights.stream(["video_model.blocks.0.self_attn.q.weight"])
    assert torch.equal(one[1], merged[one[0]])


def test_an_adapter_comes_back_from_its_file(tmp_path: Path) -> None:
    model = trained_twin()
    save_adapter(model, tmp_path / "a.safetensors", SETTINGS)
    again = twin()
    assert load_adapter(again, tmp_path / "a.safetensors") == LoraSettings.of(SETTINGS)
    want = predicted(model)
    assert all(torch.equal(want[m], value) for m, value in predicted(again).items())
    assert [f.name for f in tmp_path.iterdir()] == ["a.safetensors"]
    save_file(model.state_dict(), tmp_path / "run.safetensors")  # out of a checkpoint: the same file
    save_adapter(TensorFiles.open(tmp_path / "run.safetensors"), tmp_path / "b.safetensors", SETTINGS)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    assert (tmp_path / "a.safetensors").stat().st_size < 0.2 * sum(4 * p.numel() for p in twin().parameters())


def test_own_weights_in_half_the_memory() -> None:
    model = twin()
    add_lora(model, SETTINGS | {"base_dtype": "bfloat16"})
    types = {(".lora_" in n, p.dtype) for n, p in model.named_parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}
    out = model(**tiny_batch())
    assert out.video.dtype == torch.bfloat16
    out.video.float().square().mean().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    merge_lora(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "adapter.rank is not given: expected a whole number from 1"),
        ({"rank": 0}, "adapter.rank is 0"),
        ({"rank": 4, "alpha": -1}, "adapter.alpha is -1"),
        ({"rank": 4, "dropout": 1.0}, "adapter.dropout is 1.0: expected a number from 0 to below 1"),
        (
            {"rank": 4, "base_dtype": "int8"},
            "adapter.base_dtype is 'int8': expected float32, bfloat16, float16 or null",
        ),
        ({"rank": 4, "targets": []}, r"adapter.targets is \[\]: expected some of attention, fusion"),
        ({"rank": 4, "targets": ["conv"]}, "adapter.targets: 'conv' matches no linear layer of this model"),
        ({"rank": 4, "targets": ["("]}, "'.' is none of attention, .* and no regular expression"),
        (
            {"rang": 4},
            "adapter has unknown key 'rang', did you mean rank\? Valid: alpha, base_dtype, dropout, rank, targets",
        ),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        add_lora(tiny_twin(), settings)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model, bare = trained_twin(), twin()
    file = tmp_path / "a.safetensors"
    broken, foreign = tmp_path / "broken.safetensors", tmp_path / "foreign.safetensors"
    broken.write_bytes(b"nothing")
    save_file({"a": torch.ones(1)}, foreign)
    for message, attempt, *arguments in (
        ("has an adapter already", add_lora, model, SETTINGS),
        ("no adapter that could be merged", merge_lora, bare),
        ("no adapter that could be saved", save_adapter, bare, tmp_path / "x", SETTINGS),
        ("is not there", load_adapter, bare, file),
        ("not a whole safetensors file", load_adapter, bare, broken),
        ("is no adapter of ovi-lab", load_adapter, bare, foreign),
    ):
        with pytest.raises(UserError, match=message):
            attempt(*arguments)

    def refused(change: Any, **settings: Any) -> str:
        state = {n: v.clone() for n, v in adapter_state(model).items()}
        change(state)
        save_file(state, file, {"ovi_lab.lora": json.dumps(SETTINGS | settings)})
        with pytest.raises(UserError) as error:
            load_adapter(bare, file)
        assert not adapted_layers(bare)
        return str(error.value)

    name = "audio_model.blocks.0.cross_attn.k.lora_A.weight"
    assert f"lacks {name}" in refused(lambda s: s.pop(name))
    assert "has extra" in refused(lambda s: s.update(extra=torch.ones(1)))
    assert f"has {name} of [4, 65], this model takes [4, 64]" in refused(
        lambda s: s.update({name: torch.ones(4, 65)})
    )
    assert "no finite numbers" in refused(lambda s: s[name].fill_(torch.nan))
    assert "adapter.rank is 'four'" in refused(lambda s: None, rank="four")
    with torch.no_grad():
        adapter_state(model)[name].fill_(torch.inf)
    with pytest.raises(UserError, match="weights that are not finite"):
        merge_lora(model)
    assert adapted_layers(model)


def test_a_checkpoint_with_half_an_adapter_is_refused(tmp_path: Path) -> None:
    state = trained_twin().state_dict()
    del state["video_model.blocks.1.self_attn.v.lora_B.default.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"a part of an adapter of video_model\.blocks\.1\.self_attn\.v\.weight"
    ):
        MergedWeights(TensorFiles.open(tmp_path / "model.safetensors"), SETTINGS)
