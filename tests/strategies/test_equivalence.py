"""Every strategy trains what one process trains, over epochs that accumulated batches do not divide; a checkpoint of
one is resumed under another, on another number of processes."""

import json
from pathlib import Path

import pytest
import torch

from helpers.gathering import Gathering
from helpers.run_folders import column, weights
from helpers.several import STEPS, assert_same_end, assert_trained_alike, start
from ovi_lab.checkpoints import Checkpoint
from ovi_lab.export.export import export_run
from ovi_lab.weights.tensor_files import TensorFiles

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2")
IN_LOOP = (
    "samples.every_n_steps=4", "samples.steps=1", "sampler.steps=1", "val_metrics.every_n_steps=4",
    "val_metrics.num_clips=2", "val_metrics.batch_size=1", "model.video.text_len=64", "model.audio.text_len=64",
)  # fmt: skip
"""Samples and metrics during training; with texts so long that sampling computes what both passes share once."""
EXACT = ("zero2", "zero3")
"""Resumed, these must end with the same bits."""
ALONE = ("@alone:yes",)
VALIDATED = ("ddp", "zero1", "zero3", "fsdp2")
END = f"checkpoints/step_{STEPS:06d}"
HALFWAY = "checkpoints/step_000002"
"""After 16 of the first 20 clips: the next step takes the last 4, and 4 of the second epoch."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_root) -> Path:
    """All runs: one process, then two, then one and two from their checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    start({"one": IN_LOOP, "one_roles": ROLES, "one_learned": LEARNED}, folder, data_root, 1)
    sequence = "strategy.sequence_parallel=2"
    of_zero3 = f"init_from.all={folder}/zero3/{HALFWAY}"
    two = {name: [f"strategy={name}", *(ALONE if name in EXACT else ())] for name in STRATEGIES} | {
        "ddp_sequence": ["strategy=ddp", sequence],
        "zero3_sequence": ["strategy=zero3", sequence, "model.activation_checkpointing=full"],
        **{f"{n}_again": [f"strategy={n}", f"resume={folder}/{n}/{HALFWAY}", *ALONE] for n in EXACT},
        "zero2_of_fsdp2": ["strategy=zero2", f"resume={folder}/fsdp2/{HALFWAY}"],
        "zero2_of_one": ["strategy=zero2", f"resume={folder}/one/{HALFWAY}"],
        "fsdp2_of_one": ["strategy=fsdp2", f"resume={folder}/one/{HALFWAY}"],
        # resumed where nothing is left to train: only validated
        "zero3_at_its_end": ["strategy=zero3", f"resume={folder}/zero3/{END}", *ALONE],
        # a trainer that has not trained
        **{f"{n}_validated": [f"strategy={n}", f"@validate:{folder}/zero3/{END}"] for n in VALIDATED},
        "other_freezing": ["strategy=zero2", "freeze=nothing", of_zero3, "trainer.max_steps=1"],
        # each process reads its own rows
        "fsdp2_begun": ["strategy=fsdp2", "freeze=nothing", of_zero3, "trainer.max_steps=1"],
        **{f"{n}_kept": [f"strategy={n}", "strategy.keep_gathered=audio"] for n in WITHIN},
        # what must be refused, on every process, with nothing lost
        "disagree": ["strategy=ddp", "@1:data.seed=7"],
        "full": ["strategy=zero3", f"resume={folder}/zero3/{HALFWAY}", "@files:150000"],
        "other_model": ["strategy=zero3", "model.audio.ffn_dim=64", of_zero3],
        "muon": ["strategy=zero3", "optim=muon", "~optim.factory.lr", "~optim.factory.eps"],
    }
    two = {name: [*IN_LOOP, *overrides] for name, overrides in two.items()}
    two |= {f"{name}_roles": [f"strategy={name}", *ROLES] for name in ("ddp", "zero3", "fsdp2")}
    two |= {f"{name}_learned": [f"strategy={name}", *LEARNED] for name in WEIGHING}
    two["fsdp2_of_zero2_learned"] = ["strategy=fsdp2", *LEARNED, f"resume={folder}/zero2_learned/{HALFWAY}"]
    start(two, folder, data_root, 2, watched=Gathering, together=True)
    told = {path.name.partition(".")[0] for path in folder.glob("*.told")}
    assert told == REFUSED, [path.read_text() for path in folder.glob("*.told")]
    one = {
        "one_of_zero3": [f"resume={folder}/zero3/{HALFWAY}"],
        "zero1_of_zero2": ["strategy=zero1", f"resume={folder}/zero2/{HALFWAY}"],
    }
    start({name: [*IN_LOOP, *overrides] for name, overrides in one.items()}, folder, data_root, 1)
    four = {f"{name}_within": [f"strategy={name}", "strategy.shard_within=2"] for name in WITHIN}
    four["fsdp2_within_again"] = [*four["fsdp2_within"], f"resume={folder}/fsdp2_within/{HALFWAY}"]
    alone = {name: ALONE for name in four if name.startswith("fsdp2")}
    four = {name: [*IN_LOOP, *overrides, *alone.get(name, ())] for name, overrides in four.items()}
    start(four, folder, data_root, 4, watched=Gathering, together=True)
    return folder


ROLES = ("roles=any", "roles.joint=0.2", "roles.video_alone=0.1", "roles.audio_alone=0.1")
"""Every role, also those without which a tower of some process would have no gradient."""
LEARNED = ("loss=learned",)
WEIGHING = ("ddp", "zero2", "zero3", "fsdp2")
REFUSED = {"disagree", "full", "other_model", "muon"}
WITHIN = ("fsdp2", "zero3")
"""On four processes that shard in pairs."""
FROM_THE_START = (
    *STRATEGIES, "ddp_sequence", "zero3_sequence", "fsdp2_within", "zero3_within", "fsdp2_kept", "zero3_kept",
)  # fmt: skip
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


@pytest.mark.parametrize("name", ["ddp_roles", "zero3_roles", "fsdp2_roles"])
def test_roles_are_those_of_one_process(runs, name):
    logged = ("train/loss", "train/loss_video", "train/loss_audio", "grad_norm/total")
    assert_trained_alike(runs / name, runs / "one_roles", 0, logged)


@pytest.mark.parametrize("name", [*WEIGHING, "fsdp2_of_zero2"])
def test_learned_weights_of_the_loss_are_those_of_one_process(runs, name):
    one = runs / "one_learned"
    logged = ("train/loss", "train/loss_audio", "train/weight_video", "train/weight_audio", "grad_norm/total")
    assert_trained_alike(runs / f"{name}_learned", one, 2 if "_of_" in name else 0, logged)
    for modality in ("video", "audio"):
        weights_now = list(column(one, f"train/weight_{modality}").values())
        assert len(set(weights_now)) == STEPS  # each step moves it


def test_losses_are_the_recorded_ones(runs, goldens):
    recorded = json.loads((goldens / "strategies.json").read_text())["fp32"]
    assert list(column(runs / "one", "train/loss").values()) == pytest.approx(recorded, rel=1e-5)


@pytest.mark.parametrize("name", FROM_THE_START)
def test_samples_and_metrics_during_training_are_those_of_one_process(runs, name):
    assert {p.name for p in (runs / name / f"samples/step_{STEPS:06d}").iterdir()} == {
        "0.mp4",
        "1.mp4",
        "2.mp4",
    }
    for metric in ("val_metrics/ball_frechet_audio_n2", "val_metrics/ball_frechet_video_n2"):
        expected, found = column(runs / "one", metric), column(runs / name, metric)
        assert found == pytest.approx(expected, rel=1e-3)
        assert list(found) == [STEPS - 1]


@pytest.mark.parametrize("strategy", [*EXACT, "fsdp2_within"])
def test_a_run_resumed_ends_with_the_same_bits(runs, strategy):
    assert_same_end(runs / f"{strategy}_again", runs / strategy)


def test_a_run_resumed_at_its_end_is_validated_with_its_averages(runs):
    whole, end = (
        json.loads((runs / n / "done.json").read_text())["losses"] for n in ("zero3", "zero3_at_its_end")
    )
    assert whole == end


def test_what_fsdp2_reads_by_rows_is_what_others_read_whole(runs):
    for ema in (False, True):
        whole, rows = (weights(runs / name, ema) for name in ("other_freezing", "fsdp2_begun"))
        assert whole.keys() == rows.keys()
        assert all((rows[n] - w).abs().max() < 1e-5 for n, w in whole.items())


@pytest.mark.parametrize("strategy", VALIDATED)
def test_a_checkpoint_is_validated_by_a_trainer_that_has_not_trained(runs, strategy):
    expected = json.loads((runs / "zero3" / "done.json").read_text())["losses"]
    found = json.loads((runs / f"{strategy}_validated" / "validated.json").read_text())
    assert found == pytest.approx(expected, abs=1e-5)


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


@pytest.mark.parametrize("name", [*WITHIN, "fsdp2_kept", "zero3_kept", "fsdp2_within", "zero3_within"])
def test_only_what_is_to_stay_gathered_does(runs, name):
    seen = json.loads((runs / name / "gathered.json").read_text())
    kept = name.endswith("kept")
    # of four processes a step has no more than one micro-batch
    assert seen.get("within_audio", kept) == kept
    assert seen.get("within_video", 0) == seen["after_video"] == 0
    assert seen["after_audio"] == (name == "zero3_kept")
    assert seen["second"] == (name == "zero3_within")


@pytest.mark.parametrize("name", ["zero3", "fsdp2_within"])
def test_no_process_writes_what_another_holds(runs, name):
    pieces = Checkpoint.open(runs / name / "last").pieces()
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
