"""Whole runs at the smallest size: every experiment, resuming, what is written, what is refused."""

import json
import math
import resource
import shutil

import pytest
import torch

from helpers.run_folders import logged, same, tensors
from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.common.paths import config_dir
from ovi_lab.common.progress import SilentReporter
from ovi_lab.errors import UserError
from ovi_lab.runs.run import execute

# real_clips and own_clips need shards (tests/data), the full-size ones a cluster (tests/stages/test_stage_configs.py,
# tests/adapters); the rest must run from nothing
EXPERIMENTS = sorted(
    p.stem
    for p in (config_dir() / "experiment").glob("*.yaml")
    if p.stem not in ("real_clips", "own_clips") and not p.stem.startswith("ovi_")
)


SCORED = ("experiment=fusion", "evaluation=ball")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.slow
def test_every_experiment_runs_two_steps(experiment, made_run, composed):
    overrides = [f"experiment={experiment}"]
    if experiment in ("judges", "mouth_judge"):
        overrides += ["task.num_train=32", "task.num_eval=32"]
    scored = composed(overrides).evaluation.enabled
    world = "mouth" if experiment.startswith("mouth") else "ball"
    overrides += [f"evaluation={world}"] * scored
    run = made_run(*overrides)
    done = json.loads((run / "done.json").read_text())
    assert done["steps"] == 2
    assert all(math.isfinite(v) for v in done["losses"].values())
    assert Checkpoint.open(run / "last").step == 2
    assert execute(composed(overrides, run), SilentReporter()) == "skipped"
    if scored:
        results = json.loads((run / "results.json").read_text())
        assert results["n_clips"] == 6
        assert {f"{world}/onset_f1", f"{world}/agreement_full", f"{world}/sync_c"} <= results[
            "metrics"
        ].keys()
        own = {"ball": "ball/frechet_video", "mouth": "mouth/ser_heard"}
        assert {key for key in own.values() if key in results["metrics"]} == {own[world]}
        assert len(list((run / "clips").glob("*.mp4"))) == 1


def results_of(run):
    """Metrics and clips of a scored run."""
    return json.loads((run / "results.json").read_text())["metrics"], (run / "clips.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_killed_after_its_last_step_is_scored_with_its_averages(made_run, copied_run, composed):
    whole, run = made_run(*SCORED), copied_run(*SCORED)
    for name in ("done.json", "results.json", "clips.safetensors"):
        (run / name).unlink()
    assert execute(composed([*SCORED, "resume=auto"], run), SilentReporter()) == "done"
    assert results_of(whole) == results_of(run)
    done = [json.loads((r / "done.json").read_text())["losses"] for r in (whole, run)]
    assert done[0] == done[1]


@pytest.mark.slow
def test_the_same_command_gives_the_same_numbers(made_run, trained):
    first, second = made_run(*SCORED), trained(SCORED)
    assert same(tensors(first), tensors(second))
    assert results_of(first) == results_of(second)


@pytest.mark.slow
def test_arms_see_the_same_data_and_noise_and_begin_alike(trained, tmp_path):
    first = set()
    for arm in ("bidirectional_scaled", "bidirectional_unscaled", "none"):
        settings = [f"arm={arm}", "experiment=fusion", "evaluation=none", "trainer.max_steps=1"]
        first.add(logged(trained(settings, tmp_path / arm))[0]["train/loss"])
    # with a head of zeros the first loss is of data, noise and timesteps alone
    assert len(first) == 1


@pytest.mark.slow
def test_fusion_begins_from_pretrained_towers(made_run, trained, tmp_path):
    audio, video = (made_run(f"experiment={tower}_pretraining") for tower in ("audio", "video"))
    assert all(k.startswith("audio_model.") for k in Checkpoint.open(audio / "last").weights("model"))
    fused = trained(
        [f"init_from.audio={audio}/last", f"init_from.video={video}", "trainer.max_steps=1", "optim=adamw",
         "freeze=all_but_fusion"],
        tmp_path / "fused",
    )  # fmt: skip
    start = {
        **Checkpoint.open(resolve_checkpoint(audio)).weights("model", ema=True),
        **Checkpoint.open(resolve_checkpoint(video)).weights("model", ema=True),
    }
    end = Checkpoint.open(resolve_checkpoint(fused)).weights("model")
    assert all(torch.equal(end[name], value) for name, value in start.items())
    assert {n for n in end if n not in start} == {n for n in end if "_fusion" in n}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["init_from.audio={run}", "model.audio.ffn_dim=64"], "does not fit this model"),
        (["init_from.video={run}"], "no video_model"),
        (["init_from.all={run}/nowhere"], "no checkpoint"),
    ],
)
def test_init_from_refuses_another_size(settings, words, made_run, trained):
    run = made_run("experiment=audio_pretraining")
    with pytest.raises(UserError, match=words):
        trained([setting.format(run=run) for setting in settings])


@pytest.mark.slow
def test_a_run_of_another_configuration_is_refused_by_field(copied_run, trained):
    run = copied_run()
    with pytest.raises(UserError, match=r"seed was 0, is 1"):
        trained(["seed=1"], run)
    with pytest.raises(UserError, match=r"fusion\.direction was 'bidirectional', is 'none'"):
        trained(["fusion=none", "resume=last"], run)
    trained(["seed=1", "overwrite=true"], run)


def test_a_damaged_checkpoint_is_refused_by_file_where_there_is_no_other(copied_run, composed):
    run = copied_run()
    (run / "done.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step_000001")
    file = resolve_checkpoint(run) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"damaged: model\.safetensors has 100 of"):
        execute(composed(["resume=last"], run), SilentReporter())


@pytest.mark.slow
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(made_run, copied_run, composed, caplog):
    steps = "trainer.max_steps=3"
    whole, run = made_run(steps), copied_run(steps)
    (run / "done.json").unlink()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_000002", "step_000003"]
    file = resolve_checkpoint(run) / "ema" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the right size, and wrong
    file.write_bytes(content)
    execute(composed([steps, "resume=last"], run), SilentReporter())
    assert "ema/model.safetensors is not as it was written" in caplog.text
    assert "trying the one before" in caplog.text
    assert same(tensors(whole), tensors(run))
    assert logged(whole) == logged(run)


def test_a_loss_that_is_not_finite_names_step_modality_and_checkpoint(trained, tmp_path):
    wild = [f"optim.factory.{name}=1e30" for name in ("lr", "adamw_lr")]
    with pytest.raises(
        UserError, match=r"loss is not finite at step [1-9].* last good checkpoint is .*last"
    ) as error:
        trained([*wild, "trainer.max_steps=8", "trainer.gradient_clip_val=null"], tmp_path / "run")
    assert "video" in str(error.value) or "audio" in str(error.value)
    assert Checkpoint.open(resolve_checkpoint(tmp_path / "run")).step >= 1


@pytest.mark.slow
def test_a_failed_write_leaves_the_checkpoint_before(copied_run, composed):
    run = copied_run()
    (run / "done.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step_000002")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file may pass 200 kB: the disk is full as far as the weights are concerned
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(UserError, match="could not be written"):
            execute(composed(["resume=last"], run), SilentReporter())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step_000001"]
    assert Checkpoint.open(resolve_checkpoint(run)).step == 1


def test_nothing_but_tensors_and_plain_values_is_in_a_checkpoint(made_run):
    state = torch.load(resolve_checkpoint(made_run()) / "trainer_state.pt", weights_only=True)
    assert state["global_step"] == 2
    assert "state_dict" not in state


@pytest.mark.slow
def test_samples_reach_tensorboard(composed, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = composed(["logger.tensorboard=true"])
    config.logger.tensorboard = True
    execute(config, SilentReporter())
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = [*events.Tags()["images"], *events.Tags()["audio"]]
    for end in ("/clip", "/frames and sound", "/sound"):
        assert any(tag.endswith(end) for tag in tags)
    assert len(list((tmp_path / "run" / "samples").rglob("*.mp4"))) == 3


@pytest.mark.slow
def test_paper_weights_timesteps_and_clean_first_frames_train(trained, tmp_path):
    run = trained(
        ["loss=paper", "timesteps=logit_normal", "timesteps.shared=false", "roles.joint=0.5",
         "roles.first_frame=0.5", "freeze=ffn", "rope=learned", "fusion=every_2"],
        tmp_path / "run",
    )  # fmt: skip
    row = logged(run)[0]
    expected = 0.85 * float(row["train/loss_video"]) + 0.15 * float(row["train/loss_audio"])
    assert float(row["train/loss"]) == pytest.approx(expected, rel=1e-5)
    assert "audio_model.rope_scale" in Checkpoint.open(resolve_checkpoint(run)).weights("model")


@pytest.mark.slow
def test_clips_may_be_longer_and_positions_other_than_trained(trained, tmp_path):
    from ovi_eval.clips.clipset import ClipSet

    common = ["experiment=fusion", "evaluation=ball"]
    run = trained([*common, "evaluation.length=1.5", "evaluation.rope_factor=0.1"], tmp_path / "longer")
    clips = ClipSet.load(run / "clips.safetensors")
    assert clips.frames_NTHWC.shape[1:] == (48, 16, 16, 3)
    assert clips.waves_NS.shape[1] == round(48 * 8000 * 2.025 / 32)
    plain = trained([*common, "evaluation.length=1.5"], tmp_path / "plain")
    other = ClipSet.load(plain / "clips.safetensors")
    assert not torch.equal(clips.waves_NS, other.waves_NS)
    assert same(tensors(run), tensors(plain))


def test_a_machine_that_is_not_there_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match=r"trainer settings do not fit: .*abacus"):
        trained(["trainer.accelerator=abacus"], tmp_path / "run")


def test_one_tower_cannot_be_scored_and_is_refused_before_it_is_trained(trained, tmp_path):
    with pytest.raises(UserError, match="use evaluation=none"):
        trained(["experiment=audio_pretraining", "evaluation=ball"], tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
