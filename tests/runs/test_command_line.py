"""What a user types: refused in one line, run side by side, interrupted, resumed, installed as a wheel."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.forks import Fork, command
from helpers.sweeping import sweep
from ovi_lab.common.command_line import check
from ovi_lab.common.paths import config_dir
from ovi_lab.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SWEEP = [
    "experiment=fusion_ablation",
    "debug=fast",
    "trainer.max_steps=5",
    "evaluation.num_clips=8",
    "evaluation.num_mp4=1",
    "sampler.steps=2",
    "samples.every_n_steps=0",
    "logger.tensorboard=false",
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["experiment=fusion_ablatio"],
            ["unknown experiment 'fusion_ablatio'", "did you mean fusion_ablation?"],
        ),
        (["arm=non"], ["unknown arm 'non'", "did you mean none?", "bidirectional_scaled"]),
        (["arm=none,sideways"], ["unknown arm 'sideways'"]),
        (["trainer.max_step=3"], ["unknown key 'trainer.max_step'", "did you mean max_steps?"]),
        (["modle=tiny"], ["unknown key 'modle'", "did you mean model?"]),
        (["seed.x=1"], ["seed is a single value"]),
        (["a=[1"], ["cannot read the command line", "a=[1"]),
        (["seed=1", "name='x"], ["cannot read the command line", "name='x"]),
        (["seed"], ["cannot read the command line", "as seed=…"]),
        (["name=" + "[" * 200], ["cannot read the command line"]),
        (["seed=1\x00"], ["is no text in UTF-8"]),
        (["trainer.max_steps=abc"], ["trainer.max_steps is 'abc': expected a whole number of at least 0"]),
        (["trainer.val_check_interval=0"], ["trainer.val_check_interval is 0: expected", "a number above 0"]),
        (["data.batch_size=1.5"], ["data.batch_size is 1.5: expected a whole number of at least 1"]),
        (["seed=1e30"], ["seed is 1e+30: expected a whole number from 0"]),
        (["optim.factory.lr=[1]"], ["optim.factory.lr is [1]: expected a number of at least 0"]),
        (["trainer.max_steps=null"], ["trainer.max_steps is null"]),
        (["run_dir="], ["run_dir is '': expected text"]),
        (["name=../x"], ["name is '../x': expected a name without .."]),
        (["name=${name}"], ["name is '${name}', which refers to itself"]),
        (
            ["name=${oc.env:NOPE_NOT_SET}"],
            ["cannot be looked up: Environment variable 'NOPE_NOT_SET' not found"],
        ),
        (["seed=${nope:1}"], ["Unsupported interpolation type nope"]),
        (["hydra.run.dir=${nope}"], ["hydra.run.dir cannot be looked up"]),
        (["+ema.nope=1"], ["ema has unknown key 'nope'", "decay"]),
        (["+seed=1"], ["'+seed=1' is not accepted"]),
        (["~trainer.max_steps"], ["the command needs trainer.max_steps"]),
        (["~optim.factory"], ["the command needs optim.factory"]),
        (["~model._target_"], ["the command needs model._target_"]),
        (["~nope"], ["unknown key 'nope'"]),
        (["optim.factory.betas=[0.9]"], ["expected a list of 2: a number from 0 to 1, such as [0.9, 0.95]"]),
        (["ema=null"], ["ema is null: expected settings such as ema.decay=…"]),
        (["optim.factory=null"], ["optim.factory is null: expected settings such as optim.factory."]),
        (["checkpoint=null"], ["checkpoint is null: expected settings"]),
        (["ema=3"], ["ema is 3: expected settings such as ema.decay=…"]),
        (
            ["evaluation=ball", "evaluation.tasks=[image]"],
            ["evaluation.tasks is ['image']: expected a list of joint"],
        ),
        (
            ["evaluation=ball", "evaluation.long=0.5"],
            ["evaluation.long is 0.5: expected a number of at least 1"],
        ),
        (["seed=1,2"], ["seed=1,2 is several values: add --multirun"]),
        (["seed=1,x", "-m"], ["seed is 'x': expected a whole number"]),
        (["model=tiny,tinny", "-m"], ["unknown model 'tinny', did you mean tiny?"]),
        (["seed=interval(0,1)", "-m"], ["is no list of values"]),
        (["seed=range(3,1)", "-m"], ["seed=range(3,1) gives no value"]),
        (["seed=range(1,9,0)", "-m"], ["seed=range(1,9,0) is no list of values", "zero"]),
        (["seed=glob(*)", "-m"], ["seed=glob(*) gives no value"]),
        (["model=glob(nope*)", "-m"], ["model=glob(nope*) gives no value"]),
        (["model=glob(*)"], ["add --multirun"]),
        (["--config-name", "nope"], ["nope"]),
        (["--config-dir", "/nope"], ["--config-dir /nope is no folder"]),
        (["--config-path", "x"], ["add yours with --config-dir"]),
        (["--cfg", "nope"], ["cfg 'nope' is unknown; there are job, hydra, all"]),
        (["--cfg", "job", "-m"], ["--multirun and --cfg are different things to do"]),
        (["--experimental-rerun", "x"], ["would unpickle a file"]),
        (["--nope"], ["--nope is no flag", "as nope=…"]),
        (["--multi-run"], ["--multi-run is no flag", "as a flag, --multirun"]),
        (["--experiment", "fusion"], ["--experiment is no flag", "as experiment=fusion"]),
        (["seed=1", "--experiment=fusion"], ["--experiment=fusion is no flag", "as experiment=fusion"]),
        (["-experiment=fusion"], ["without dashes and with =, as experiment=fusion"]),
        (["experiment", "fusion"], ["'experiment' sets nothing; write experiment=fusion"]),
        (["experiment", "=", "fusion"], ["write experiment=fusion, without spaces"]),
        (["fusion"], ["'fusion' sets nothing; write experiment=fusion"]),
        (["name=my", "run"], ["'run' sets nothing", 'as name="my run"']),
        (["help"], ["write --help for help"]),
        (["experiment=fusion,"], ["'experiment=fusion,' (a value is missing at its end)"]),
        (
            ["text=null"],
            ["text=null leaves out", "Valid: learned, separate, stored, umt5", "task.text_encoder=null"],
        ),
        (
            ["experiment=real_clips"],
            ["data.train is not given", "give data.train='clips/train-{000..007}.tar'"],
        ),
        (["data=latents"], ["data.shards is not given", "ovi-data latents makes them"]),
        (["text=umt5"], ["text.weights is not given", "models_t5_umt5-xxl-enc-bf16.pth"]),
        (["strategy=zero3_nvme"], ["strategy.nvme_path is not given"]),
        (["hydra.mode=NOPE"], ["hydra.mode=NOPE"]),
        (["hydra.mode=${name}"], ["hydra.mode cannot be looked up"]),
        (["hydra.nope=1"], ["hydra.nope=1"]),
    ],
)
def test_mistakes_are_refused_with_what_is_valid(arguments, words):
    with pytest.raises(UserError) as error:
        check(arguments, config_dir(), "train", may_lack=False)
    message = str(error.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_a_command_line_is_composed_once(monkeypatch):
    from ovi_lab.common import command_line

    composed = []

    def counted(*arguments, **named):
        composed.append(named)
        return compose(*arguments, **named)

    compose = command_line.compose
    monkeypatch.setattr(command_line, "compose", counted)
    check(["experiment=fusion_ablation", "arm=none,audio_to_video", "seed=3,4", "rope.factor=0.5", "name=x"],
          config_dir(), "train")  # fmt: skip
    assert len(composed) == 1


def test_own_configurations_beside_ours(tmp_path):
    (tmp_path / "experiment").mkdir()
    own = tmp_path / "experiment" / "mine.yaml"
    own.write_text("# @package _global_\nname: mine\ntrainer:\n  max_steps: 3\n")
    check(["--config-dir", str(tmp_path), "experiment=mine"], config_dir(), "train")
    own.write_text("# @package _global_\nname: mine\ntrainer:\n  max_steps: soon\n")
    with pytest.raises(UserError, match=r"trainer\.max_steps is 'soon'"):
        check(["--config-dir", str(tmp_path), "experiment=mine"], config_dir(), "train")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hydra.job_logging.root.level=NOPE"], "Hydra cannot start with this command line"),
        (["+hydra.callbacks.x._target_=nope.Nope"], "Hydra cannot start with this command line"),
        (["run_dir=/dev/null/x"], "run_dir"),
        (["+model.nope=1"], "takes no 'nope'"),
        (["task._target_=nope.Nope"], "there is nothing of that name"),
        (["data.root=/dev/null/x"], "/dev/null/x"),
        (["init_from.all=20261129"], "no checkpoint at 20261129"),
        (["data._target_=null"], "there is nothing of that name"),
        (["trainer.accelerator=tpu"], "trainer settings do not fit"),
    ],
)
@pytest.mark.slow
def test_what_hydra_or_a_part_refuses_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    from ovi_lab import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ovi-train", "debug=fast", "logger.tensorboard=false", *arguments])
    with pytest.raises(SystemExit) as left:
        train.main()
    err = capsys.readouterr().err
    assert left.value.code == 2
    assert [line for line in err.splitlines() if words in line and line.startswith("error: ")], err
    assert "Traceback" not in err


@pytest.mark.slow
def test_valid_command_lines_are_accepted():
    check(["model=glob(t*)", "seed=range(1,3)", "-m"], config_dir(), "train")
    check(["init_from=null", "loss.video=null", "model.audio=null", "fusion=none"], config_dir(), "train")
    check(["experiment=fusion_ablation", "arm=none,audio_to_video", "seed=3,4", "+trainer.fast_dev_run=true"],
          config_dir(), "train")  # fmt: skip
    check(["experiment=fusion", "rope.factor=0.5", "hydra.run.dir=x", "-m"], config_dir(), "train")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=nothing"], "unknown experiment"),
        (["fusion.direction=sideways"], "fusion.direction is 'sideways': expected bidirectional"),
        (["resume=last"], "has no checkpoint"),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, data_root, tmp_path):
    process = command("ovi_lab.train", *arguments, "debug=fast", f"data.root={data_root}", cwd=tmp_path)
    assert process.wait() == 2, process.output
    out = process.output
    lines = [line for line in out.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in out


@pytest.mark.slow
def test_a_sweep_killed_and_started_again_ends_as_one_that_was_not(data_root, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    arms = [*SWEEP, "arm=bidirectional_scaled,none", "seed=0,1", f"data.root={data_root}"]
    process = Fork(sweep, arms, cwd=whole)
    assert process.wait() == 0, process.output
    assert "leaderboard.html" in process.output

    def until(process, pattern):
        deadline = time.monotonic() + 120
        while not list(study.glob(pattern)) and time.monotonic() < deadline:
            assert process.code is None, process.output
            time.sleep(0.02)

    study = broken / "runs" / "fusion_ablation"
    process = Fork(sweep, arms, cwd=broken)
    until(process, "*/*/checkpoints/step_*")
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(study.glob("*/*/done.json"))) < 4

    process = Fork(sweep, arms, cwd=broken)
    until(process, "*/*/done.json")
    process.signal(signal.SIGINT)
    assert process.wait() == 2, process.output
    assert "the same command continues with what is missing" in process.output

    process = Fork(sweep, arms, cwd=broken)
    assert process.wait() == 0, process.output
    assert "already done" in process.output
    for run in sorted((whole / "runs" / "fusion_ablation").glob("*/seed_*")):
        other = study / run.parent.name / run.name
        first, second = (json.loads((r / "results.json").read_text())["metrics"] for r in (run, other))
        assert first == second
        assert (run / "clips.safetensors").read_bytes() == (other / "clips.safetensors").read_bytes()
    board = json.loads((study / "results.json").read_text())
    assert [arm["name"] for arm in board["arms"]] == ["bidirectional_scaled", "none"]
    assert {"real", "real_shuffled"} <= {row["name"] for row in board["references"]}

    process = Fork(sweep, [*arms, "trainer.gradient_clip_val=0.5"], cwd=broken)
    assert process.wait() == 2, process.output
    assert "trainer.gradient_clip_val was 1.0, is 0.5" in process.output.replace("\n", " ")


@pytest.mark.slow
def test_a_sweep_over_any_key_makes_an_arm_of_each_value(data_root, tmp_path):
    values = ["arm=none", "seed=0", "rope.factor=0.5,0.25", "trainer.max_steps=1"]
    done = subprocess.run(  # as it is typed, with workers that are started anew
        [sys.executable, "-m", "ovi_lab.train", *SWEEP, *values, f"data.root={data_root}"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    study = tmp_path / "runs" / "fusion_ablation"
    board = json.loads((study / "results.json").read_text())
    assert [arm["name"] for arm in board["arms"]] == ["none,rope.factor=0.5", "none,rope.factor=0.25"]
    # a curve over that key, and nothing of the study's
    assert board["sweep"]["arms"][0] == {"arm": "none,rope.factor=0.25", "at": [0.25], "series": ""}
    assert board["sweep"]["paper"] == {"rope.factor": 0.19676}
    assert (board["study"]["title"], board["findings"]) == ("fusion_ablation over rope.factor", [])
    assert (study / "none,rope.factor=0.5" / "seed_0" / "results.json").is_file()


@pytest.mark.slow
def test_a_bare_checkout_and_a_wheel_find_their_configuration(tmp_path):
    # the command's output, and on standard error the folder of its configuration
    script = (
        "import runpy, sys, ovi_lab.common.paths; print(ovi_lab.common.paths.config_dir(), file=sys.stderr); "
        "runpy.run_module('ovi_lab.train', run_name='__main__')"
    )

    def composed(path):
        done = subprocess.run(
            [sys.executable, "-c", script, "experiment=fusion_ablation", "--cfg", "job"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout, Path(done.stderr.strip())

    text, folder = composed(os.pathsep.join(str(ROOT / part) for part in ("src", "evaluation")))
    assert folder == ROOT / "conf"
    wheel_dir, target = tmp_path / "dist", tmp_path / "site"
    python = {"check": True, "capture_output": True, "timeout": 300}
    build = ["build", "--wheel", "--no-isolation", "--outdir", str(wheel_dir), str(ROOT)]
    subprocess.run([sys.executable, "-m", *build], **python)
    (wheel,) = wheel_dir.glob("*.whl")
    install = ["pip", "install", "--no-deps", "--quiet", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], **python)
    from_wheel, folder = composed(target)
    assert folder == target / "ovi_lab" / "conf"
    assert from_wheel == text
    assert (target / "ovi_eval" / "ball" / "weights" / "ball_judges.safetensors").is_file()
    assert (target / "hydra_plugins" / "ovi_lab_local_pool.py").is_file()


@pytest.mark.slow
def test_a_run_of_ones_own_is_sampled(made_run, tmp_path):
    run = made_run()
    out = subprocess.run(
        [sys.executable, "-m", "ovi_lab.sample", f"checkpoint={run}/last", "prompt=a red ball bounces", "count=2",
         "sampler.steps=2", "length=1.5", f"out={tmp_path}/clips"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    from ovi_eval.clips.clip import read_clip

    clips = [read_clip(path) for path in sorted((tmp_path / "clips").glob("*.mp4"))]
    assert [len(clip.frames_THWC) for clip in clips] == [48, 48]
    for bad, words in (
        ("checkpoint=nowhere", "no checkpoint at nowhere"),
        ("sampler=heun", "unknown sampler 'heun'"),
    ):
        process = command("ovi_lab.sample", f"checkpoint={run}", "prompt=x", bad, cwd=tmp_path)
        assert process.wait() == 2
        assert words in process.output
        assert "Traceback" not in process.output


@pytest.mark.slow
def test_two_processes_train_and_the_first_scores(data_root, tmp_path):
    common = ["experiment=fusion", "debug=fast", "evaluation.num_clips=4", "evaluation.num_mp4=0", "sampler.steps=2",
              "logger.tensorboard=false", "samples.every_n_steps=0"]  # fmt: skip
    two = ["strategy=ddp", "trainer.devices=2", "data.batch_size=2", f"data.root={data_root}"]
    process = command("ovi_lab.train", *common, *two, cwd=tmp_path)
    assert process.wait() == 0, process.output
    run = tmp_path / "runs" / "fusion"
    assert json.loads((run / "done.json").read_text())["steps"] == 2
    assert json.loads((run / "results.json").read_text())["n_clips"] == 4


def test_a_command_line_as_a_shell_leaves_it_is_what_was_meant():
    from ovi_lab.runs.arguments import hydra_arguments

    expanded = [f"data.shards=/data/audio/{n:03d}.tar" for n in range(3)]
    assert hydra_arguments(["experiment=ovi_11b_stage1", *expanded, "seed=1"]) == [
        "experiment=ovi_11b_stage1",
        "data.shards=['/data/audio/000.tar','/data/audio/001.tar','/data/audio/002.tar']",
        "seed=1",
    ]
    assert hydra_arguments(["data.train=a-{000..511}.tar"]) == ["data.train='a-{000..511}.tar'"]
    assert hydra_arguments(["init_from=runs/stage1/last"]) == ["init_from.all=runs/stage1/last"]
    assert hydra_arguments(["init_from.audio=runs/stage2/last"]) == ["init_from.audio=runs/stage2/last"]


def test_global_batch_size_is_reached_whatever_the_number_of_processes(composed):
    from ovi_lab.runs.trainer import _accumulate

    config = composed(["global_batch_size=2880"])
    config.data.batch_size = 45
    for places, accumulated in ((1, 64), (8, 8), (64, 1)):
        trainer = SimpleNamespace(strategy=SimpleNamespace(data_place=(0, places)), accumulate_grad_batches=0)
        _accumulate(config, trainer, None)
        assert trainer.accumulate_grad_batches == accumulated
    trainer.strategy.data_place = (0, 7)
    with pytest.raises(UserError, match=r"which 7 processes with data\.batch_size=45 do not divide"):
        _accumulate(config, trainer, None)
