"""DeepSpeed checkpoints of every ZeRO stage as weights of the released layout.

tests/goldens/zero/stage{1,2,3}: real checkpoints by DeepSpeed 0.19.8, two processes, bf16, FFNs frozen, clipped
gradients, with the engine's own fp32 weights beside them; zero_training.py made them and makes more.
"""

import importlib.util
import json
import os
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers import zero_training
from helpers.exports import exported
from helpers.run_folders import same
from ovi_lab.export.cli import main
from ovi_lab.export.export import export_run

STAGES = (1, 2, 3)
OPTIM, MODEL = "*rank_1_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"


@pytest.fixture
def checkpoint(goldens, tmp_path):
    """A copy of the checkpoint of a stage, to do harm to."""

    def copy(stage):
        folder = tmp_path / f"stage{stage}"
        shutil.copytree(goldens / "zero" / f"stage{stage}", folder)
        return folder

    return copy


def shard(folder, pattern):
    """The one file of the checkpoint that the pattern means."""
    (found,) = folder.glob(f"global_step3/{pattern}")
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_master_weights_come_back_to_the_bit(goldens, tmp_path, stage):
    folder = goldens / "zero" / f"stage{stage}"
    engine = load_file(folder / "weights.safetensors")
    state, config, done = exported(folder, tmp_path / "out")
    assert same(state, engine)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    card = (tmp_path / "out" / "README.md").read_text()
    told = f"a DeepSpeed checkpoint of ZeRO-{stage}, 2 processes, step 3, raw fp32 master weights"
    assert config["source"] == told
    assert f"weights taken from: {told}\n" in card
    assert (config["step"], config["weights"], config["dtype"]) == (3, "raw", "F32")
    assert "The checkpoint keeps 8 of 101 weights in bfloat16 (not trained)." in done.notes
    # the trained ones carry more than bf16 holds, so these are the master weights and not the working copy
    rounded = [n for n, t in state.items() if torch.equal(t, t.bfloat16().float())]
    assert sorted(rounded) == sorted(n for n in state if ".ffn." in n)
    half, config, _ = exported(folder, tmp_path / "half", dtype=torch.bfloat16)
    assert same(half, {n: t.bfloat16() for n, t in engine.items()})
    assert config["dtype"] == "BF16"


def test_shards_and_the_folder_of_shards(goldens, tmp_path):
    folder = goldens / "zero" / "stage3"
    engine = load_file(folder / "weights.safetensors")
    state, _, done = exported(folder / "global_step3", tmp_path / "out", max_shard_size=10_000)
    assert len([name for name in done.files if name.endswith(".safetensors")]) > 2
    assert same(state, engine)


def test_under_lightning_the_model_has_a_prefix_and_an_average(checkpoint, tmp_path):
    folder = checkpoint(2)
    engine = load_file(folder / "weights.safetensors")
    # Lightning's folder: the shards in `checkpoint`, its own state among DeepSpeed's, names as in its module
    file = shard(folder, MODEL)
    content = torch.load(file, weights_only=True)
    content["param_shapes"] = [
        {f"model.{n}": s for n, s in group.items()} for group in content["param_shapes"]
    ]
    content["module"] = {f"model.{n}": t for n, t in content["module"].items()}
    content["module"]["text_encoder.table.weight"] = torch.ones(2, 5)
    content["ema_state_dict"] = {f"model.{n}": 2 * t for n, t in engine.items()}
    content["global_step"] = 7
    torch.save(content, file)
    (folder / "global_step3").rename(folder / "checkpoint")
    (folder / "latest").write_text("checkpoint")
    averaged, config, _ = exported(folder, tmp_path / "ema")
    assert same(averaged, {n: 2 * t for n, t in engine.items()})
    assert config["source"].endswith("step 7, averaged weights")
    raw, config, done = exported(folder, tmp_path / "raw", ema=False)
    assert any("text encoder stays" in note for note in done.notes)
    assert any("keeps 8 of 101 weights" in note for note in done.notes)
    assert same(raw, engine)
    assert (config["weights"], config["step"]) == ("raw", 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stage_zero_holds_the_networks_own_weights(goldens, tmp_path, dtype):
    engine = load_file(goldens / "zero" / "stage1" / "weights.safetensors")
    content = {
        "module": {n: t.to(dtype) for n, t in engine.items()},
        "param_shapes": None,
        "global_steps": 4,
        "ds_config": {"zero_optimization": {"stage": 0}},
    }
    folder = tmp_path / "stage0"
    (folder / "global_step4").mkdir(parents=True)
    torch.save(content, folder / "global_step4" / MODEL)
    shutil.copy(goldens / "zero" / "stage1" / "config.yaml", folder)
    state, config, done = exported(folder, tmp_path / "out")
    assert same(state, {n: t.to(dtype).float() for n, t in engine.items()})
    assert config["source"] == "a DeepSpeed checkpoint of ZeRO-0, 1 process, step 4, raw weights"
    assert any("keeps 101 of 101 weights in bfloat16" in note for note in done.notes) == (
        dtype != torch.float32
    )


def test_the_card_has_the_runs_scores(checkpoint, tmp_path):
    from ovi_eval.results.files import MetricValue, RunResults

    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.move(checkpoint(3), run / "checkpoints" / "step_000003.ckpt")
    (run / "checkpoints" / "step_000003.ckpt" / "config.yaml").rename(run / "config.yaml")
    metrics = {"ball/onset_f1": MetricValue(0.8125, 12, "higher")}
    RunResults("arm", metrics, 12, seed=4, config_hash="c0ffee").write(run)
    (run / "done.json").write_text(json.dumps({"steps": 3}))
    for index, place in enumerate((run / "checkpoints" / "step_000003.ckpt", run, run / "last")):
        export_run(place, tmp_path / f"out{index}")
        card = (tmp_path / f"out{index}" / "README.md").read_text()
        assert "| ball/onset_f1 | 0.8125 | higher | 12 | version 1 |" in card
        assert "# zero_3\n" in card


def test_the_newest_checkpoint_of_a_run_counts(goldens, tmp_path):
    run = tmp_path / "run"
    for step, stage in ((2, 1), (10, 3)):
        shutil.copytree(goldens / "zero" / f"stage{stage}", run / "checkpoints" / f"step_{step:06d}")
    _, config, _ = exported(run / "last", tmp_path / "out")
    assert "ZeRO-3" in config["source"]
    weights = load_file(goldens / "zero" / "stage1" / "weights.safetensors")
    torch.save({"state_dict": weights, "global_step": 11}, run / "checkpoints" / "step_000011.ckpt")
    shutil.copy(goldens / "zero" / "stage1" / "config.yaml", run)
    state, config, _ = exported(run, tmp_path / "later")
    assert config["source"] == "a Lightning checkpoint, step 11, raw weights"
    assert same(state, weights)


@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_shard_is_named(checkpoint, refused, stage):
    folder = checkpoint(stage)
    shard(folder, OPTIM).unlink()
    refused(folder, "lacks the optimiser shard of process 1", "(1 of 2 missing)")
    shard(folder, "*rank_0_mp_rank_00_optim_states.pt").unlink()
    refused(folder, "lacks the optimiser shards")


def test_missing_model_states_are_named(checkpoint, refused):
    folder = checkpoint(3)
    shard(folder, "zero_pp_rank_1_*model_states.pt").unlink()
    refused(folder, "lacks the model states of process 1")
    shutil.rmtree(folder / "global_step3")
    refused(folder, "names global_step3, which is missing")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["optim", "model"])
def test_a_shard_that_is_cut_short_is_named(checkpoint, refused, stage, kind):
    folder = checkpoint(stage)
    file = sorted(folder.glob(f"global_step3/*{kind}_states.pt"))[-1]
    os.truncate(file, file.stat().st_size * 2 // 3)
    refused(folder, f"{file} is not a whole file of torch.save")
    file.write_bytes(b"")
    refused(folder, "(0 bytes")


def altered(file, change):
    """The shard with its content changed, its classes still under DeepSpeed's names."""
    from ovi_lab.checkpoints.deepspeed import _STAND_INS
    from ovi_lab.weights.torch_files import load_plain

    content = load_plain(file, _STAND_INS)
    for state in (content, content.get("optimizer_state_dict", {})):
        for key in ("loss_scaler", "param_slice_mappings"):
            state.pop(key, None)
    change(content)
    copy = file.with_suffix(".new")
    torch.save(content, copy)
    copy.replace(file)


def later(content):
    state = content["optimizer_state_dict"]
    for group in state.get("base_optimizer_state", state.get("optimizer_state_dict"))["state"].values():
        group["step"] = torch.tensor(8.0)


def shorter(content):
    state = content["optimizer_state_dict"]
    groups = state.get("fp32_flat_groups") or state["single_partition_of_fp32_groups"]
    groups[0] = groups[0][:-100].clone()


def other(content):
    renamed = [{n.replace("_model.", "_net."): s for n, s in g.items()} for g in content["param_shapes"]]
    content.update(param_shapes=renamed, module={})


@pytest.mark.parametrize(
    ("stage", "pattern", "change", "words"),
    [
        *((stage, OPTIM, later, "step 3 in process 0, 8 in process 1") for stage in STAGES),
        *((stage, OPTIM, shorter, "mixes shards of different models") for stage in STAGES),
        (
            3,
            f"zero_pp_rank_1_{MODEL}",
            lambda c: c.update(global_steps=8),
            "step 3 in process 0, 8 in process 1",
        ),
        (2, MODEL, lambda c: c["param_shapes"][0].popitem(), "mixes shards of different models"),
        (1, MODEL, other, "it is a checkpoint of another model"),
    ],
)
def test_shards_of_different_steps_sizes_and_models_are_refused(
    checkpoint, refused, stage, pattern, change, words
):
    folder = checkpoint(stage)
    altered(shard(folder, pattern), change)
    refused(folder, words)


def test_shards_of_different_stages_and_counts_are_refused(goldens, checkpoint, refused):
    folder = checkpoint(2)
    foreign = shard(goldens / "zero" / "stage1", OPTIM)
    shutil.copy(foreign, folder / "global_step3")
    refused(folder, "ZeRO stage 2 in process 0, 1 in process 1")
    file = shard(folder, OPTIM)
    shutil.copy(shard(folder, "*rank_0_mp_rank_00_optim_states.pt"), file)
    altered(file, lambda content: content["optimizer_state_dict"].update(partition_count=[4, 4]))
    refused(folder, "number of processes 2 in process 0, 4 in process 1")
    shutil.copy(file, file.with_name("zero_pp_rank_1_mp_rank_00_optim_states.pt"))
    refused(folder, "shards of two checkpoints")


def test_model_parallel_shards_are_refused(checkpoint, refused):
    folder = checkpoint(1)
    file = shard(folder, MODEL)
    shutil.copy(file, file.with_name("mp_rank_01_model_states.pt"))
    refused(folder, "model parallelism (mp_rank_01_model_states.pt)")


class Payload:
    """What a pickle of ill will holds: a call at unpickling."""

    def __reduce__(self):
        return (os.system, ("touch owned",))


def test_code_in_a_shard_is_refused_and_not_run(checkpoint, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = checkpoint(2)
    for pattern in ("*rank_1_mp_rank_00_optim_states.pt", MODEL):
        file = shard(folder, pattern)
        altered(file, lambda content: content.update(client=Payload()))
        refused(folder, "system, which is code and no tensor or plain value")
        assert not (tmp_path / "owned").exists()


def test_latest_names_a_folder_beside_it(checkpoint, tmp_path, refused, capsys):
    folder = checkpoint(1)
    (folder / "latest").write_text("../stage1/global_step3")
    refused(folder, "which is not a folder beside it")
    (folder / "latest").unlink()
    assert main([str(folder), "--out", str(tmp_path / "found")]) == 0
    shutil.copytree(folder / "global_step3", folder / "global_step9")
    capsys.readouterr()
    refused(folder, "holds global_step3, global_step9", "name one of them")


def test_another_model_and_no_configuration_are_refused(checkpoint, tmp_path, refused):
    folder = checkpoint(3)
    config = folder / "config.yaml"
    wide = yaml.safe_load(config.read_text())
    wide["model"]["video"]["ffn_dim"] = 20
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(wide))
    refused(folder, "is [16, 12], expected", options=("--config", str(tmp_path / "wide.yaml")))
    refused(folder, "does not fit this model", options=("--config", "ovi_720x720_5s"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    refused(folder, "configures no model", options=("--config", str(tmp_path / "list.yaml")))
    refused(folder, "nowhere.yaml", options=("--config", "nowhere.yaml"))
    refused(folder, "holds no averaged weights: use --raw", options=("--ema",))
    config.unlink()
    refused(folder, "no config.yaml beside", "--config")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "processes", "dtype", "frozen"),
    [
        (0, 1, "fp32", False),
        (0, 1, "bf16", False),
        (1, 1, "bf16", False),
        (1, 2, "fp32", True),
        (2, 1, "fp32", False),
        (2, 2, "bf16", True),
        (3, 1, "bf16", True),
        (3, 2, "fp32", False),
    ],
)
def test_fresh_checkpoints_agree_with_the_running_engine(tmp_path, stage, processes, dtype, frozen):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed: only the checkpoints kept in tests/goldens/zero are read")
    folder = tmp_path / "fresh"
    zero_training.start(folder, stage, processes, dtype, frozen)
    state, config, _ = exported(folder, tmp_path / "out")
    assert same(state, load_file(folder / "weights.safetensors"))
    assert f"ZeRO-{stage}, {processes} process" in config["source"]
