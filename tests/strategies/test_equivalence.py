"""Every strategy trains what one process trains, over epochs that accumulated batches do not divide; a checkpoint of
one is resumed under another, on another number of processes."""

import json
from pathlib import Path

import pytest
import torch

from helpers.run_folders import column, weights
from helpers.several import STEPS, assert_same_end, assert_trained_alike, start
from ovi_lab.checkpoints import Checkpoint
from ovi_lab.export.export import export_run
from ovi_lab.weights.tensor_files import TensorFiles

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2")
HALFWAY = "checkpoints/step_000002"
"""After 16 of the first 20 clips: the next step takes the last 4, and 4 of the second epoch."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_root) -> Path:
    """All runs: one process, then two, then one and two from their checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    start({"one": []}, folder, data_root, 1)
    sequence = "strategy.sequence_parallel=2"
    of_zero3 = f"init_from.all={folder}/zero3/{HALFWAY}"
    two = {name: [f"strategy={name}"] for name in STRATEGIES} | {
        "ddp_sequence": ["strategy=ddp", sequence],
        "zero3_sequence": ["strategy=zero3", sequence, "model.activation_checkpointing=full"],
        "zero2_compiled": ["strategy=zero2", *COMPILED, "model.activation_checkpointing=attention"],
        "fsdp2_compiled": ["strategy=fsdp2", *COMPILED, "model.activation_checkpointing=attention"],
        "zero2_again": ["strategy=zero2", f"resume={folder}/zero2/{HALFWAY}"],
        "zero3_again": ["strategy=zero3", f"resume={folder}/zero3/{HALFWAY}"],
        "zero2_of_fsdp2": ["strategy=zero2", f"resume={folder}/fsdp2/{HALFWAY}"],
        "zero2_of_one": ["strategy=zero2", f"resume={folder}/one/{HALFWAY}"],
        "fsdp2_of_one": ["strategy=fsdp2", f"resume={folder}/one/{HALFWAY}"],
        # resumed where nothing is left to train: only validated
        "zero3_at_its_end": ["strategy=zero3", f"resume={folder}/zero3/checkpoints/step_{STEPS:06d}"],
        "other_freezing": ["strategy=zero2", "freeze=nothing", of_zero3, "trainer.max_steps=1"],
        # what must be refused, on every process, with nothing lost
        "disagree": ["strategy=ddp", "@1:data.seed=7"],
        "full": ["strategy=zero3", f"resume={folder}/zero3/{HALFWAY}", "@files:150000"],
        "other_model": ["strategy=zero3", "model.audio.ffn_dim=64", of_zero3],
        "zero3_compiled": ["strategy=zero3", *COMPILED],
        "muon": ["strategy=zero3", "optim=muon", "~optim.factory.lr", "~optim.factory.eps"],
    }
    start(two, folder, data_root, 2)
    told = {path.name.partition(".")[0] for path in folder.glob("*.told")}
    assert told == REFUSED, [path.read_text() for path in folder.glob("*.told")]
    one = {
        "one_of_zero3": [f"resume={folder}/zero3/{HALFWAY}"],
        "zero1_of_zero2": ["strategy=zero1", f"resume={folder}/zero2/{HALFWAY}"],
    }
    start(one, folder, data_root, 1)
    return folder


COMPILED = ("model.compile=blocks", "model.compile_backend=aot_eager")
REFUSED = {"disagree", "full", "other_model", "muon", "zero3_compiled"}
FROM_THE_START = (*STRATEGIES, "ddp_sequence", "zero3_sequence", "zero2_compiled", "fsdp2_compiled")
FROM_HALFWAY = (
    "zero2_again", "zero3_again", "zero2_of_fsdp2", "zero2_of_one", "fsdp2_of_one", "one_of_zero3", "zero1_of_zero2",
)  # fmt: skip


@pytest.mark.parametrize("name", FROM_THE_START + FROM_HALFWAY)
def test_losses_norms_and_weights_are_those_of_one_process(runs, name):
    first = 2 if name in FROM_HALFWAY else 0
    logged = ("train/loss", "train/loss_audio", "grad_norm/total", "grad_norm/fusion", "lr")
    assert_trained_alike(runs / name, runs / "one", first, logged)
    assert list(column(runs / name, "val/loss").values())[-1] == pytest.approx(
        list(column(runs / "one", "val/loss").values())[-1], abs=1e-5
    )


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_a_run_resumed_under_zero_ends_with_the_same_bits(runs, strategy):
    assert_same_end(runs / f"{strategy}_again", runs / strategy)


def test_a_run_resumed_at_its_end_is_validated_with_its_averages(runs):
    whole, end = (
        json.loads((runs / n / "done.json").read_text())["losses"] for n in ("zero3", "zero3_at_its_end")
    )
    assert whole == end


def test_frozen_weights_stay_and_are_no_part_of_the_optimiser(runs):
    start_weights = Checkpoint.open(runs / "one" / HALFWAY).weights("model")
    for name in FROM_THE_START:
        end = weights(runs / name, False)
        assert all(torch.equal(end[f"model.{n}"], w) for n, w in start_weights.items() if ".ffn." in n)
    for name in ("zero2", "zero3", "fsdp2"):
        pieces = Checkpoint.open(runs / name / "last").pieces()
        assert {"exp_avg", "exp_avg_sq"} <= pieces.kinds()
        assert not any(".ffn." in n for kind in ("exp_avg", "ema") for n in pieces.names(kind))
        assert any(".ffn." in n for n in pieces.names("weight"))
        counted = json.loads((runs / name / "done.json").read_text())
        assert counted["trained_parameters"] < counted["parameters"]
    counts = {json.loads((runs / n / "done.json").read_text())["trained_parameters"] for n in FROM_THE_START}
    assert len(counts) == 1


def test_no_process_writes_what_another_holds(runs):
    pieces = Checkpoint.open(runs / "zero3" / "last").pieces()
    files = {Path(part.file).name for parts in pieces.parts.values() for part in parts}
    assert files == {"rank_00000.safetensors", "rank_00001.safetensors"}
    for key, parts in pieces.parts.items():
        assert sum(part.count for part in parts) == torch.Size(pieces.shapes[key]).numel()


def test_what_cannot_be_trained_is_refused_in_one_line_on_every_process(runs):
    def told(name: str) -> list[str]:
        return [(runs / f"{name}.{rank}.told").read_text() for rank in (0, 1)]

    for line in told("disagree"):
        assert "process 1 has another configuration than process 0" in line
    for line in told("full"):
        assert f"step_{STEPS:06d}" in line
        assert "not written" in line or "could not be written" in line
    assert not [p.name for p in (runs / "full").glob("checkpoints/*") if not p.name.startswith("step_")]
    assert not (runs / "full" / "checkpoints" / f"step_{STEPS:06d}").exists()
    for line in told("other_model"):
        assert "does not fit this model: audio_model.blocks" in line
    for line in told("zero3_compiled"):
        assert "model.compile=blocks does not go with strategy=zero3" in line
    for line in told("muon"):
        assert "use optim=adamw" in line
    for name in REFUSED:
        assert all("\n" not in line for line in told(name))


def test_a_sharded_checkpoint_is_exported(runs, tmp_path):
    export_run(runs / "zero3", tmp_path / "export", dtype=torch.float32)
    exported = dict(TensorFiles.open(tmp_path / "export" / "model.safetensors").stream())
    averaged = Checkpoint.open(runs / "zero3" / "last").weights("model", ema=True)
    assert exported.keys() == averaged.keys()
    assert all(torch.equal(exported[n], w) for n, w in averaged.items())
