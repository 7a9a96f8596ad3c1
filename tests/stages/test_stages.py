"""The three stages in a row at the smallest size: order, going on, export, clips, report; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from ovi_lab.checkpoints import Checkpoint, resolve_checkpoint
from ovi_lab.common.progress import SilentReporter
from ovi_lab.errors import UserError
from ovi_lab.runs.run import execute
from ovi_lab.stages.__main__ import main
from ovi_lab.stages.chain import Settings, parse, run_chain, waves
from ovi_lab.stages.outcome import Curve, report, verdict

SMALL = [
    "steps=2,3",
    "scratch_steps=4",
    "debug=fast",
    "evaluation.num_clips=8",
    "evaluation.num_mp4=1",
    "sampler.steps=2",
    "samples.every_n_steps=0",
    "logger.tensorboard=false",
]


class Stop(SilentReporter):
    """Ends the program within the training of the first run of so many steps."""

    def __init__(self, steps):
        self.steps = steps

    def at(self, stage, done, total, note=""):
        if stage == "training" and total == self.steps and done == 2:
            raise KeyboardInterrupt


def one_by_one(seen, reporter):
    """Runs in this process; `seen` gets the status of each."""

    def run(jobs):
        outcome = {}
        for job in jobs:
            try:
                outcome[job.name] = execute(OmegaConf.create(job.config), reporter), ""
            except UserError as error:
                outcome[job.name] = "failed", str(error)
            seen[job.name] = outcome[job.name][0]
        return outcome

    return run


@pytest.mark.slow
def test_the_whole_chain_stopped_and_resumed(data_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, overrides = parse([*SMALL, f"data.root={data_root}"])
    seen = {}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_chain(settings, overrides, one_by_one(seen, Stop(3)))
    done = ["stage1/seed_0", "video/seed_0", "stage2/seed_0", "scratch_4/seed_0"]
    assert list(seen) == done
    stopped = settings.run("stage3_ffn_3", 0)
    assert Checkpoint.open(resolve_checkpoint(stopped)).step in (1, 2)

    seen = {}
    scored = run_chain(settings, overrides, one_by_one(seen, SilentReporter()))
    assert [name for name, status in seen.items() if status == "skipped"] == done
    finished = [name for name, status in seen.items() if status == "done"]
    assert finished == ["stage3_ffn_3/seed_0", "stage3_ffn_2/seed_0"]
    assert [job.config["arm_name"] for job in scored] == ["scratch_4", "stage3_ffn_3", "stage3_ffn_2"]

    # stage 3 kept the feed-forward layers of the towers that it began from
    end = Checkpoint.open(resolve_checkpoint(stopped)).weights("model", ema=True)
    audio = Checkpoint.open(resolve_checkpoint(settings.run("stage2", 0))).weights("model", ema=True)
    video = Checkpoint.open(resolve_checkpoint(settings.run("video", 0))).weights("model", ema=True)
    towers = {**audio, **video}
    assert all(torch.equal(end[n], w) for n, w in towers.items() if ".ffn." in n)
    assert any(not torch.equal(end[n], w) for n, w in towers.items() if ".ffn." not in n)

    text = report(settings, scored)
    folder = Path("runs/stages/report")
    assert (folder / "stages.md").read_text() == text + "\n"
    assert (folder / "steps.png").stat().st_size > 5_000
    assert "pretrained towers, freeze=ffn: more than 3 steps; from scratch: more than 4 steps" in text
    trained = json.loads((stopped / "done.json").read_text())["trained_parameters"]
    assert f"| stage3_ffn_3 | stage2, video | 3 | {trained:,} |" in text
    exported = load_file("runs/stages/export/model.safetensors")
    assert exported.keys() == end.keys()
    assert all(torch.equal(exported[n], w) for n, w in end.items())
    assert len(list(Path("runs/stages/clips").glob("*.mp4"))) == 3
    board = json.loads((folder / "results.json").read_text())
    assert board["arms"][0]["name"] == "stage3_ffn_3"
    again = {}
    run_chain(settings, overrides, one_by_one(again, SilentReporter()))
    assert set(again.values()) == {"skipped"}


@pytest.mark.slow
def test_what_a_stage_begins_from_and_how_long_its_sound_is():
    settings, overrides = parse(["seed=0,1", "steps=50,100", "scratch_steps=9", "name=mine"])
    first, second, third = waves(settings, overrides)
    assert [job.name for job in first] == ["stage1/seed_0", "video/seed_0", "stage1/seed_1", "video/seed_1"]
    stage1, stage2 = first[2].config, next(j.config for j in second if j.name == "stage2/seed_1")
    assert stage1["data"]["audio_tokens"]["crop"] == "random"
    assert stage1["data"]["audio_tokens"]["min"] < stage1["data"]["audio_tokens"]["max"] == 81
    assert stage2["data"]["audio_tokens"]["min"] == stage2["data"]["audio_tokens"]["max"] == 81
    assert stage2["init_from"]["all"] == "runs/mine/stage1/seed_1/last"
    assert len(third) == 2 * 2
    for job in third:
        assert job.config["init_from"]["video"] == f"runs/mine/video/seed_{job.config['seed']}/last"
        assert job.config["init_from"]["audio"] == f"runs/mine/stage2/seed_{job.config['seed']}/last"
        assert job.config["loss"] == {"video": 0.85, "audio": 0.15}
    frozen = {job.config["arm_name"]: job.config["freeze"]["frozen"] for job in third}
    assert frozen["stage3_ffn_100"] == [r"\.ffn\."]
    assert settings.main_arm == "stage3_ffn_100"


@pytest.mark.slow
def test_a_stage_that_fails_ends_the_chain(data_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, overrides = parse([*SMALL, f"data.root={data_root}", "trainer.accelerator=abacus"])
    seen = {}
    with pytest.raises(UserError, match=r"2 of 2 runs failed; .* stage1/seed_0: trainer settings do not fit"):
        run_chain(settings, overrides, one_by_one(seen, SilentReporter()))
    assert set(seen) == {"stage1/seed_0", "video/seed_0"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["steps=0"], "steps is 0: expected at least 1 step"),
        (["steps=many"], "steps is 'many': expected int values"),
        (["name=a,b"], "name is"),
        (["freeze=fnn"], "unknown freeze 'fnn', did you mean ffn?"),
        (["trainer.max_step=3"], "unknown key 'trainer.max_step'"),
        (["experiment=fusion"], "leave experiment=fusion out"),
        (["trainer.max_steps=3,4"], "trainer.max_steps=3,4 is several values"),
        (["seed=[1"], "cannot read the command line"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_the_first_length_that_reaches_the_goal_in_the_mean():
    towers = Curve("towers", {10: [0.5, 0.7], 20: [0.6, 0.72], 40: [0.9, 0.9]})
    scratch = Curve("from scratch", {20: [0.1, 0.2], 40: [0.6, 0.6]})
    assert towers.reaches(0.65) == 20
    assert scratch.reaches(0.65) is None
    assert "towers: 20 steps; from scratch: more than 40 steps" in verdict([towers, scratch], 0.65)
    assert Settings().folder == Path("runs/stages")
