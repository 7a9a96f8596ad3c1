"""Runs that go on: made longer, resumed with other settings that change no result, begun again after a failure."""

import json
import logging
import re

import pytest

from helpers.run_folders import column, logged, same, small_config, tensors
from ovi_lab.checkpoints import Checkpoint
from ovi_lab.common.progress import SilentReporter
from ovi_lab.errors import UserError
from ovi_lab.runs.ending import ending
from ovi_lab.runs.identity import config_hash, run_config
from ovi_lab.runs.refusals import check_memory, free_memory, least_bytes
from ovi_lab.runs.run import execute

CONSTANT = ("schedule=constant", "schedule.warmup_steps=3", "samples.every_n_steps=0")


def steps(count):
    return f"trainer.max_steps={count}"


@pytest.mark.parametrize(
    "every", [0, 1]
)  # the last checkpoint is written at the end of training, or with its step
@pytest.mark.slow
def test_a_finished_run_made_longer_equals_one_of_that_length_to_the_bit(
    every, made_run, copied_run, composed
):
    saving = f"checkpoint.every_n_steps={every}"
    # 8 batches an epoch: the longer run passes its end
    whole, run = made_run(*CONSTANT, steps(10), saving), copied_run(*CONSTANT, steps(3), saving)
    harmless = ["data.prefetch=1", "data.num_workers=0", "trainer.log_every_n_steps=1", "val_metrics.seed=5"]
    longer = composed([*CONSTANT, steps(10), saving, *harmless, "resume=last"], run)
    assert execute(longer, SilentReporter()) == "done"
    assert Checkpoint.open(run / "last").step == 10
    assert same(tensors(whole), tensors(run))
    assert logged(whole) == logged(run)
    outcome = [json.loads((r / "done.json").read_text()) for r in (whole, run)]
    assert outcome[0] == outcome[1] | {"config_hash": outcome[0]["config_hash"]}
    assert outcome[1]["config_hash"] == config_hash(
        run_config(longer)
    )  # as from the start: no record of its growth
    assert execute(composed([*CONSTANT, steps(10), saving], run), SilentReporter()) == "skipped"


@pytest.mark.slow
def test_a_schedule_that_had_fallen_follows_the_longer_one_and_says_so(copied_run, composed, caplog):
    schedule = ("schedule.warmup_steps=0", "schedule.flat_until=0.5", "optim=adamw")
    falling = (*schedule, "samples.every_n_steps=0", "evaluation=ball")
    run = copied_run(*falling, steps(4))
    with caplog.at_level(logging.WARNING):
        execute(composed([*falling, steps(8), "resume=last"], run), SilentReporter())
    assert "the learning rate goes from 0.02 to 1 of its peak at step 4" in caplog.text
    rates = column(run, "lr")
    peak = max(rates.values())
    shares = [rates[step] / peak for step in sorted(rates)]
    assert shares[:4] == pytest.approx([1, 1, 1, 0.51])  # those of four steps
    assert shares[4:] == pytest.approx([1, 0.755, 0.51, 0.265])  # those of eight
    assert execute(composed([*falling, steps(8)], run), SilentReporter()) == "skipped"
    first = (run / "results.json").read_bytes()
    (run / "done.json").unlink()
    execute(composed([*falling, steps(8), "resume=last"], run), SilentReporter())
    results = [json.loads(text) for text in (first, (run / "results.json").read_bytes())]
    said = "lengthened at step 4: 4 → 8 steps, learning rates of the first until then"
    assert [result["lineage"] for result in results] == [[said], [said]]
    (identity,) = {result["config_hash"] for result in results}
    assert identity != config_hash(run_config(composed([*falling, steps(8)])))


def test_what_a_longer_run_is_refused_for_is_one_line_with_resume_first(copied_run, composed):
    run = copied_run()

    def refused(*overrides):
        with pytest.raises(UserError) as error:
            execute(composed(list(overrides), run), SilentReporter())
        text = str(error.value)
        offers = [text.find(word) for word in ("resume", "name=", "overwrite=true")]
        assert offers == sorted(offers) or offers[2] == -1
        return text

    assert "ended at step 2: resume=last continues it to 5" in refused(steps(5))
    assert "trainer.max_steps is 1, and the run in" in refused(steps(1), "resume=last")
    assert "seed was 0, is 1" in refused("seed=1", steps(5), "resume=last")
    assert (run / "done.json").is_file()
    (run / "done.json").unlink()
    assert "holds an unfinished run: resume=last resumes it" in refused()
    assert "step_000002 has taken 2 steps already: give trainer.max_steps=2" in refused(
        steps(1), "resume=last"
    )


@pytest.mark.slow
def test_a_run_that_failed_before_its_first_checkpoint_is_begun_again_as_corrected(trained, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserError, match="more than the 8 that a process takes"):
        trained(["trainer.val_check_interval=1000"], run)
    assert (run / "config.yaml").is_file()
    trained(["seed=1"], run)
    assert Checkpoint.open(run / "last").configuration().plain["seed"] == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.video.num_heads=3"], "dim=64 does not divide by num_heads=3"),
        (["model.video.num_heads=64", "model.audio.num_heads=64"], "cannot carry rotary positions"),
        (["model.video.patch_size=[1,2]"], "expected three numbers: frames, rows, columns"),
        (["model.video.num_layers=2"], "num_layers is 2 in the video, 3 in the audio tower"),
        (["fusion.blocks=[9]"], "fusion.blocks names block 9"),
        (["rope.mode=sideways"], "rope.mode is 'sideways'"),
        (["freeze.frozen=[nothing]"], "matches no parameter of this model"),
        (["trainer=gpu"], "use trainer=cpu"),
        (["data=none"], "choose data=bouncing_ball"),
        (["model.audio=null", "fusion=none"], "use task=video_pretraining"),
        (["loss.video=null", "loss.audio=0"], "no loss has a weight"),
        (["trainer.precision=16-mixed"], "trainer.precision=32-true"),
        (["model.video.in_dim=23"], "video latents have 24 channels, this model's video tower takes 23"),
        (["model.audio.in_dim=20"], "or set model.audio.in_dim=12"),
        (
            ["model.video.patch_size=[1,3,1]"],
            "video has 2 latent rows, which do not divide into patches of 3",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(overrides, words, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = small_config(overrides, tmp_path / "run", tmp_path / "data")
    with pytest.raises(UserError) as error:
        execute(config, SilentReporter())
    assert words in str(error.value)
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(("kind", "key"), [("latents", "data.shards"), ("media", "data.train")])
def test_clips_that_the_model_does_not_take_are_refused_before_they_are_read(
    kind, key, made_run, data_root, composed, tmp_path
):
    made_run()  # makes the world
    shard = min(data_root.glob(f"**/train-{kind}-*.tar"))
    group = f"data={'shards' if kind == 'media' else kind}"
    config = composed(["model=small_ovi", group, f"{key}={shard}"])
    config.data.root = str(tmp_path / "data")
    with pytest.raises(UserError, match="24 channels, this model's video tower takes 48"):
        execute(config, SilentReporter())
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "run").exists()


def test_a_model_that_memory_does_not_hold_is_refused_before_it_is_built(composed, tmp_path, monkeypatch):
    from ovi_lab.runs import refusals

    monkeypatch.setattr(refusals, "free_memory", lambda: 16 * 2**30)
    with pytest.raises(
        UserError, match=r"11\.7 billion parameters needs 217\.\d GiB .* 16\.0 GiB are free here"
    ):
        execute(composed(["model=ovi_11b"]), SilentReporter())
    assert not (tmp_path / "run").exists()


def test_memory_that_is_not_known_refuses_nothing(tmp_path):
    assert free_memory(tmp_path) is None
    check_memory(2**60, None, 1)
    check_memory(5, 5, 1)
    with pytest.raises(UserError):
        check_memory(6, 5, 1)


def test_memory_is_what_the_kernel_and_the_container_leave(tmp_path):
    group = tmp_path / "sys/fs/cgroup"
    for folder in (tmp_path / "proc", group):
        folder.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  4096 kB\nSwapFree: 1024 kB\n")
    assert free_memory(tmp_path) == 5120 * 1024
    for name, text in (
        ("max", "2000000"),
        ("current", "1500000"),
        ("stat", "anon 1\ninactive_file 100000\n"),
    ):
        (group / f"memory.{name}").write_text(text)
    assert free_memory(tmp_path) == 600_000
    (group / "memory.max").write_text("max")
    assert free_memory(tmp_path) == 5120 * 1024


def test_bytes_of_a_model_in_training():
    assert least_bytes(10, 10, averaged=False) == 160
    assert least_bytes(10, 10, averaged=True) == 200
    assert least_bytes(10, 4, averaged=True) == 40 + 64
    assert least_bytes(10, 0, averaged=True, weight=2) == 20


def test_an_adapter_without_weights_to_adapt_is_refused(composed):
    with pytest.raises(UserError, match="give init_from=ckpts"):
        execute(composed(["adapter=lora", "optim=adamw"]), SilentReporter())


def test_a_run_ends_with_folder_loss_and_the_next_command(made_run, composed, tmp_path, monkeypatch):
    run = made_run()
    config = composed([], run)
    monkeypatch.chdir(run.parent)
    said, following = ending(config)
    assert re.fullmatch(r"run: 2 steps, validation loss \d\.\d+", said)
    assert (
        following == 'next: ovi-sample checkpoint=run/last prompt="a red ball bounces three times low drum"'
    )
    said, following = ending(config, skipped=True)
    assert said.startswith("run: finished before, 2 steps")
    assert "resume=last trainer.max_steps=4" in following
