"""Predicted memory against that of real training, and against the arithmetic of the strategies."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from helpers.benchmark_scripts import load_script
from ovi_lab.models import TwinDiT
from ovi_lab.planning import activations
from ovi_lab.planning.activations import META, Pass, measure
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.memory import Counts, Memory, PassMemory, memory_of
from ovi_lab.planning.strategy import Sharding, Types

CLIP = ClipShape((3, 4, 6), 20)
HELD = ("FFNs frozen", "products kept", "audio tower", "bf16 autocast", "8 clips")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The benchmark, which trains and measures."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield load_script(monkeypatch, "planning")


@pytest.mark.parametrize("name", HELD)
@pytest.mark.slow
def test_predicted_is_what_training_takes(script: ModuleType, name: str) -> None:
    case = next(case for case in script.cases("tiny") if case.name == name)
    config = script.composed(case.overrides)
    measured = script.alive(config, case)
    assert script.predicted(config, case) == pytest.approx(measured, rel=0.05)


@pytest.mark.slow
def test_the_allocator_agrees(script: ModuleType) -> None:
    case = next(case for case in script.cases("tiny") if case.name == "blocks recomputed")
    row = script.row(case)
    assert row.allocated == pytest.approx(row.alive, rel=0.02)
    assert abs(row.error) < 0.05
    assert "| blocks recomputed |" in script.table([row], "tiny")


@pytest.mark.parametrize(
    ("blocks", "fusion", "checkpointing"),
    [(5, {}, ("none", 1)), (8, {"blocks": {"every": 2}}, ("attention", 2))],
    ids=["alike", "by twos"],
)
@pytest.mark.slow
def test_a_few_blocks_tell_what_all_take(
    blocks: int, fusion: dict[str, object], checkpointing: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = {"dim": 32, "num_heads": 2, "num_layers": blocks, "ffn_dim": 64, "text_len": 5, "text_dim": 8}
    with META:
        choice, every = checkpointing
        model = TwinDiT(
            tower | {"in_dim": 4},
            tower | {"in_dim": 3, "patch_hidden_dim": 0},
            fusion=fusion,
            activation_checkpointing=choice,
            checkpoint_every=every,
        )
    work = Pass(CLIP, clips=2)
    few = measure(model, work)
    monkeypatch.setattr(activations, "LONGEST_PERIOD", 0)
    assert few == measure(model, work)


@pytest.mark.slow
def test_deepspeeds_linear_layers_keep_the_inputs_of_frozen_weights() -> None:
    tower = {"dim": 32, "num_heads": 2, "num_layers": 3, "ffn_dim": 64, "text_len": 5, "text_dim": 8}
    with META:
        model = TwinDiT(tower | {"in_dim": 4}, tower | {"in_dim": 3, "patch_hidden_dim": 0})
    whole = [measure(model, Pass(CLIP, by_deepspeed=d)) for d in (False, True)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".ffn." not in name)
    plain, zero = (measure(model, Pass(CLIP, by_deepspeed=d)) for d in (False, True))
    assert whole[0].activations == whole[1].activations
    # of each block's FFN what its activation function gives; what comes before that, the function keeps itself
    tokens = 3 * 2 * 3 + 20
    assert zero.forward - plain.forward >= 3 * 4 * 64 * tokens


def parts(
    strategy: Sharding, gpus: int, accumulate: int = 1, block: int = 0, arriving: int = 0, **counts: Any
) -> Memory:
    held = Counts(
        **{
            "total": 1000,
            "trained": 600,
            "small": 0,
            "largest": 20,
            "largest_unit": 50,
            "outside": 100,
            "unit_trained": 30,
            **counts,
        }
    )
    work = PassMemory(5000, 6000, with_gradients=6500, outside=1000, block=block, arriving=arriving)
    types = Types.of("bf16-mixed", strategy)
    return memory_of(held, work, (8 * 600, 4 * 600), strategy, types, gpus, accumulate=accumulate)


def test_what_each_stage_shards() -> None:
    # in bytes: 2 a weight in bf16; 4 + 8 a trained one for the float32 copy and two moments; 4 for the average; 4 for
    # its gradient, which is accumulated in float32
    one = parts(Sharding("zero", 1, bucket=0), 4).backward
    assert one["weights"] == 2000
    assert one["optimiser state"] == 12 * 150
    assert one["EMA"] == 4 * 150
    two, three = (parts(Sharding("zero", stage, bucket=0), 4) for stage in (2, 3))
    assert two.backward["weights"] == 2000
    assert two.backward["gradients"] == two.step["gradients"] == 4 * 150
    assert three.backward["weights"] == 500
    assert three.backward["gathered parameters"] == 2000
    # what is gathered ahead is there twice
    ahead = parts(Sharding("zero", 3, bucket=400), 4)
    assert ahead.backward["gathered parameters"] == 2000 + 2 * 100
    assert three.step["gradients"] == (4 + 4) * 150
    lower = parts(Sharding("zero", 2, bucket=0, full_gradients=False), 4)
    assert (lower.backward["gradients"], lower.step["gradients"]) == (2 * 150, (2 + 4) * 150)
    off = parts(Sharding("zero", 3, "cpu", "cpu", bucket=0), 4)
    assert "optimiser state" not in off.backward
    assert off.elsewhere["optimiser state, host memory"] == 12 * 150
    assert off.elsewhere["weights, host memory"] == 500
    assert "gradients" not in off.backward
    # accumulated in one tensor, handed to the optimiser in another
    assert off.elsewhere["gradients, host memory"] == 2 * 4 * 150
    # stage 2 sums on the device before it hands the optimiser its gradients
    assert parts(Sharding("zero", 2, "cpu", bucket=0), 4).backward["gradients"] == 4 * 150
    sharded = parts(Sharding("fsdp2", 3), 4).backward
    assert sharded["weights"] == 4 * 250
    assert sharded["gathered parameters"] == 2 * (100 + 2 * 50)
    within = parts(Sharding("fsdp2", 3, within=2), 4).backward
    assert (within["weights"], within["optimiser state"], within["gradients"]) == (4 * 500, 8 * 300, 4 * 300)
    copied = parts(Sharding("zero", 3, bucket=0, within=2), 4).backward
    assert (copied["weights"], copied["optimiser state"]) == (2 * (250 + 500), 12 * 150)
    # what stays gathered is no part of the pairs that come and go
    for name, held, less in (("fsdp2", "gathered parameters", 2 * 20), ("zero", "weights", 0)):
        tower: Any = {"of_tower": {"audio": 300}, "block_of": {"audio": (20, 12)}}
        plain, kept = (parts(Sharding(name, 3, bucket=0, kept=k), 4, **tower) for k in (None, "audio"))
        assert kept.backward[held] == plain.backward[held] + 2 * (300 - less)
        if name == "fsdp2":
            assert kept.backward["communication buffers"] == (2 + 4) * (30 - 12)
    # gradients of one pair of blocks, and in float32 those of the pair before
    assert sharded["communication buffers"] == (2 + 4) * 30
    # which are reduced when that pair's activations are gone
    freed = parts(Sharding("fsdp2", 3), 4, block=100).backward
    assert freed["communication buffers"] == 2 * 30 + (4 * 30 - 100)
    assert parts(Sharding("fsdp2", 3), 4, block=200).backward["communication buffers"] == 2 * 30
    whole = parts(Sharding("ddp"), 4).backward
    assert (whole["weights"], whole["gradients"], whole["optimiser state"]) == (4000, 2400, 4800)


def test_what_gradients_are_reduced_through() -> None:
    # stage 1 fills two buckets in float32, stage 2 two in the network's type for each backward pass, stage 3 one
    stages = [parts(Sharding("zero", stage, bucket=100), 4, accumulate=2) for stage in (1, 2, 3)]
    assert [m.backward["communication buffers"] for m in stages] == [2 * 400, 2 * 200, 400]
    assert [m.step.get("communication buffers") for m in stages] == [2 * 400, None, 400]
    # where a full bucket is reduced, it is copied: stage 2 in both types
    late = [parts(Sharding("zero", stage, bucket=100), 4, 2, arriving=5900) for stage in (1, 2, 3)]
    assert [m.backward["activations"] for m in late] == [5900] * 3
    assert [m.backward["communication buffers"] for m in late] == [3 * 400, 2 * 200 + 600, 2 * 400]
    early = parts(Sharding("zero", 3, bucket=100), 4, 2, arriving=5000).backward
    assert (early["activations"], early["communication buffers"]) == (6000, 400)
    # stage 1 sums whole gradients, and steps a share of them
    assert [m.backward["gradients"] for m in stages] == [4 * 600, 4 * 150, 4 * 150]
    assert [m.step["gradients"] for m in stages] == [4 * 150, 4 * 150, (4 + 4) * 150]
    # DDP's buckets hold those of all passes
    once, twice = (parts(Sharding("ddp"), 4, accumulate=n) for n in (1, 2))
    assert once.backward["gradients"] == 4 * 600
    assert (once.backward, once.step) == (twice.backward, twice.step)


def test_gradients_replace_activations_on_one_process() -> None:
    alone = parts(Sharding("auto"), 1).backward
    # 5,000 at the end of the forward pass beside last step's gradients is more than 6,500 in the backward pass
    assert alone["gradients"] + alone["activations"] == 2400 + 5000


def test_types_follow_precision_and_strategy() -> None:
    assert Types.of("bf16-mixed", Sharding("ddp")).autocast == torch.bfloat16
    assert Types.of("bf16-mixed", Sharding("zero", 2)).weights == torch.bfloat16
    assert not Types.of("32-true", Sharding("ddp")).master
