"""Sweeps over what trained models are evaluated with, as they are typed: trained once, killed, continued, drawn."""

import json
import signal
import time

import pytest

from helpers.forks import Fork
from helpers.sweeping import sweep

SOLVER = [
    "experiment=solver",
    "debug=fast",
    "evaluation.num_clips=6",
    "evaluation.num_mp4=0",
    "samples.every_n_steps=0",
    "logger.tensorboard=false",
    "sampler.solver=unipc,euler",
    "sampler.steps=2,3,4",
    "sampler.shift=1,5",
    "seed=0,1",
]


@pytest.mark.slow
def test_the_solver_study_trains_once_and_goes_on_where_it_was_killed(data_root, tmp_path):
    study, command = tmp_path / "runs" / "solver", [*SOLVER, f"data.root={data_root}"]
    process = Fork(sweep, command, cwd=tmp_path)
    deadline = time.monotonic() + 240
    while not list(study.glob("bidirectional*/*/done.json")) and time.monotonic() < deadline:
        assert process.code is None, process.output
        time.sleep(0.02)
    process.signal(signal.SIGKILL)
    process.wait()
    trained = sorted(study.glob("trained/*/*/last/model.safetensors"))
    assert [path.parts[-3] for path in trained] == ["seed_0", "seed_1"]
    times = [path.stat().st_mtime_ns for path in trained]
    first = min(study.glob("bidirectional*/*/done.json"))
    evaluated = first.stat().st_mtime_ns

    process = Fork(sweep, command, cwd=tmp_path)
    assert process.wait() == 0, process.output
    assert "24 evaluations of 2 trained models" in process.output
    assert [path.stat().st_mtime_ns for path in trained] == times
    assert first.stat().st_mtime_ns == evaluated
    assert len(list(study.glob("bidirectional*/*/results.json"))) == 24
    assert not list(study.glob("bidirectional*/*/checkpoints"))
    board = json.loads((study / "results.json").read_text())
    assert board["study"]["title"] == "Solver, steps and shift on the bouncing ball"
    assert board["problems"] == []
    assert len(board["sweep"]["arms"]) == 12
    assert {effect["series"] for effect in board["sweep"]["effects"]} == {"solver=unipc", "solver=euler"}
    # claims on what this part of the study has are decided, the others are not known yet
    assert [finding["outcome"] == "unknown" for finding in board["findings"]] == [
        True,
        True,
        True,
        True,
        False,
        True,
    ]
    assert f"next: ovi-sample checkpoint={study.relative_to(tmp_path)}/trained" in process.output.replace(
        "\n", " "
    )


@pytest.mark.slow
def test_a_value_that_fails_leaves_the_others_their_curve_without_the_studys_claims(data_root, tmp_path):
    command = [
        "experiment=fusion_ablation", "name=rates", "arm=none", "seed=0", "optim.factory.lr=0.01,0.02,1e30",
        *SOLVER[1:6], "sampler.steps=2", f"data.root={data_root}",
    ]  # fmt: skip
    process = Fork(sweep, command, cwd=tmp_path)
    assert process.wait() == 2, process.output
    assert "1 of 3 runs failed; the same command runs them again" in process.output.replace("\n", " ")
    board = json.loads((tmp_path / "runs" / "rates" / "results.json").read_text())
    assert board["study"]["title"] == "rates over optim.factory.lr"
    assert board["findings"] == []
    (problem,) = board["problems"]
    assert problem.startswith("none,optim.factory.lr=1e+30, seed 0: failed: ")
    assert [point["at"] for point in board["sweep"]["arms"]] == [[0.01], [0.02]]


@pytest.mark.slow
def test_a_claim_that_a_studys_seeds_leave_open_gets_further_ones(data_root, tmp_path):
    """Of the arms that it compares, and of those that they begin from; once these are there, nothing runs again."""
    claim = (
        "{metric: loss/validation_audio, arm: audio_from_video, versus: video_pretrained, "
        "supported: shown, unsupported: 'not shown, {seeds} seeds'}"
    )
    study = "hydra.callbacks.leaderboard"
    command = [
        "experiment=beginning", *SOLVER[1:6], "sampler.steps=2", "evaluation.num_clips=2", f"data.root={data_root}",
        "arm=video_tower,video_pretrained,audio_from_video,scratch", "seed=0", "hydra.sweeper.params.seed=0",
        f"{study}.more_seeds=[1]", f"{study}.claims=[{claim}]",
    ]  # fmt: skip
    command.remove("evaluation.num_clips=6")
    process = Fork(sweep, command, cwd=tmp_path)
    assert process.wait() == 0, process.output
    said = " ".join(process.output.split())
    assert "leave claims open (number 1): seeds 1 of audio_from_video, video_pretrained follow" in said
    runs = tmp_path / "runs" / "beginning"
    board = json.loads((runs / "results.json").read_text())
    assert {arm["name"]: arm["seeds"] for arm in board["arms"]} == {
        "video_pretrained": [0, 1],
        "audio_from_video": [0, 1],
        "scratch": [0],
    }
    assert board["problems"] == []
    assert (runs / "video_tower" / "seed_1" / "done.json").is_file()
    listed = [(row["arm"], row["seed"]) for row in json.loads((runs / "jobs.json").read_text())]
    assert len(listed) == 7
    assert ("video_tower", 1) in listed
    times = {path: path.stat().st_mtime_ns for path in runs.glob("*/*/done.json")}
    process = Fork(sweep, command, cwd=tmp_path)
    assert process.wait() == 0, process.output
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/*/done.json")} == times
