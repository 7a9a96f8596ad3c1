"""Compiled blocks train what one process trains without compilation, under every strategy with hooks of its own."""

from pathlib import Path

import pytest

from helpers.several import assert_trained_alike, start

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

STRATEGIES = ("zero2", "zero3", "fsdp2")
STEPS = 2
# one graph a process: texts of one length, no validation; graphs of other shapes are tests/models/test_compilation.py's
SAME = (f"trainer.max_steps={STEPS}", "task.text_dropout=1", "trainer.limit_val_batches=0")
COMPILED = (
    "model.compile=blocks",
    "model.compile_backend=aot_eager",
    "model.activation_checkpointing=attention",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """One process without compilation, and two with it under each strategy."""
    folder = tmp_path_factory.mktemp("runs")
    start({"one": SAME}, folder, data_root, 1)
    two = {name: [*SAME, *COMPILED, f"strategy={name}"] for name in STRATEGIES}
    start(two, folder, data_root, 2, together=True)
    assert not [path.read_text() for path in folder.glob("*.told")]
    return folder


@pytest.mark.parametrize("name", STRATEGIES)
def test_losses_norms_and_weights_are_those_of_one_process(runs: Path, name: str) -> None:
    logged = ("train/loss", "train/loss_audio", "grad_norm/total", "grad_norm/fusion", "lr")
    assert_trained_alike(runs / name, runs / "one", 0, logged, STEPS)
