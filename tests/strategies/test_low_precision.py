"""In bf16 every strategy adds up and reduces gradients in float32, and trains what the others train."""

import json
from pathlib import Path

import pytest

from helpers.exact_gradients import ExactGradients
from helpers.run_folders import column
from helpers.several import start

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

ZERO = ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
AUTOCAST = ("ddp", "fsdp2")
"""With float32 parameters that are cast where they are used, or gathered."""
BF16 = (
    "trainer.precision=bf16-mixed",
    "trainer.max_steps=2",
    "data.batch_size=1",
    "checkpoint.every_n_steps=2",
)
"""Four micro-batches a step on each of two processes."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_root) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    runs = {name: [*BF16, f"strategy={name}"] for name in (*AUTOCAST, *ZERO)}
    runs["in_bf16"] = [*BF16, "strategy=zero2", "strategy.gradient_dtype=null"]
    runs["fsdp2_fused"] = [*BF16, "strategy=fsdp2", "++optim.factory.fused=true"]
    start(runs, folder, data_root, 2, watched=ExactGradients, together=True)
    assert not list(folder.glob("*.told")), [path.read_text() for path in folder.glob("*.told")]
    return folder


def error(runs: Path, name: str) -> float:
    return max(json.loads((runs / name / "exact.json").read_text()))


@pytest.mark.parametrize("name", ["ddp", *ZERO])
def test_gradients_are_added_up_and_reduced_in_float32(runs, name):
    assert error(runs, name) < 1e-6
    assert error(runs, "in_bf16") > 1e-3


@pytest.mark.parametrize(("name", "first"), [(n, "zero1") for n in ZERO[1:]] + [("fsdp2_fused", "fsdp2")])
def test_losses_are_those_of_the_same_arithmetic(runs, name, first):
    for what in ("train/loss", "val/loss", "grad_norm/total"):
        assert column(runs / name, what) == pytest.approx(column(runs / first, what), rel=2e-4)


@pytest.mark.parametrize("name", [*AUTOCAST, *ZERO])
def test_losses_are_the_recorded_ones(runs, name, goldens):
    recorded = json.loads((goldens / "strategies.json").read_text())["bf16"]
    found = list(column(runs / name, "train/loss").values())
    assert found == pytest.approx(recorded, rel=1e-3)
