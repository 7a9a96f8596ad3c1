"""Activation checkpointing: the gradients stay, the memory falls, whatever is trained and whichever towers run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.operations import Operations
from helpers.run_folders import same
from helpers.twin_goldens import tiny_batch, tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.recomputation import ACTIVATION_CHECKPOINTING
from ovi_lab.optim.freezing import FreezeRule
from ovi_lab.planning.live_memory import LiveMemory

BOTH, VIDEO, AUDIO = ("video", "audio"), ("video",), ("audio",)


def loss_of(model: TwinDiT, modalities: tuple[str, ...] = BOTH, **sizes: int) -> Tensor:
    """A loss that every parameter of the modalities' towers reaches."""
    batch = {k: v for k, v in tiny_batch(**sizes).items() if any(m in k for m in modalities)}
    given = Given.first_frame(batch["video"]) if "video" in modalities else None
    out = model(**batch, given=given)
    return torch.stack([getattr(out, m).square().mean() for m in modalities]).sum()


def gradients(
    choice: str, modalities: tuple[str, ...] = BOTH, every: int = 1, freeze: FreezeRule | None = None
) -> dict[str, Tensor]:
    """Of every trained parameter that the modalities reach."""
    options: dict[str, Any] = {"activation_checkpointing": choice, "checkpoint_every": every}
    model = tiny_twin(spread=0.2, rope={"mode": "learned"}, **options)
    if freeze is not None:
        freeze.apply(model)
    loss_of(model, modalities).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("modalities", [BOTH, VIDEO, AUDIO], ids="-".join)
@pytest.mark.parametrize("choice", ACTIVATION_CHECKPOINTING[1:])
def test_the_gradients_are_those_of_keeping_everything(choice: str, modalities: tuple[str, ...]) -> None:
    want = gradients("none", modalities)
    assert len(want) > 80
    for every in (1, 2):
        got = gradients(choice, modalities, every)
        assert same(got, want)


@pytest.mark.parametrize("choice", ACTIVATION_CHECKPOINTING[1:])
@pytest.mark.parametrize(
    "rule",
    [FreezeRule(frozen=[r"\.ffn\."]), FreezeRule(trained=[r"blocks\.1\..*_fusion\."])],
    ids=["ffn", "one"],
)
def test_frozen_parameters_stay_without_gradients(choice: str, rule: FreezeRule) -> None:
    want, got = gradients("none", freeze=rule), gradients(choice, freeze=rule)
    assert same(want, got)
    assert want.keys() < gradients("none").keys()


@pytest.mark.parametrize("modalities", [BOTH, VIDEO, AUDIO], ids="-".join)
def test_what_is_kept_decides_the_memory(modalities: tuple[str, ...]) -> None:
    def kept(choice: str, every: int = 1) -> int:
        """Bytes that a forward pass leaves for the backward pass."""
        model = tiny_twin(activation_checkpointing=choice, checkpoint_every=every)
        with LiveMemory("cpu", model) as live:
            loss = loss_of(model, modalities, frames=16, tokens=64)
            assert loss.requires_grad
            return live.now

    full, attention, matmul, none = (kept(choice) for choice in ("full", "attention", "matmul", "none"))
    assert full < 0.8 * attention < 0.8 * 0.8 * matmul < 0.8**3 * none
    assert 1.3 * full < kept("full", every=2) < 0.8 * none


def test_what_is_kept_is_not_computed_again() -> None:
    """Three twin blocks have 6 attentions and 24 linear layers each."""
    attention, product = "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::addmm"
    again = {"none": (0, 0), "full": (18, 72), "attention": (0, 72), "matmul": (0, 0)}
    for choice in ACTIVATION_CHECKPOINTING:
        loss = loss_of(tiny_twin(spread=0.2, activation_checkpointing=choice))
        with Operations() as backward:
            loss.backward()
        assert (backward.counts[attention], backward.counts[product]) == again[choice]
        assert (backward.counts["aten::gelu"] > 0) == (choice != "none")


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="activation_checkpointing is 'all': expected none, full, att"):
        tiny_twin(activation_checkpointing="all")
    with pytest.raises(UserError, match="checkpoint_every is 0"):
        tiny_twin(checkpoint_every=0)
