"""Evaluation tasks: what is given of the real clips, what is scored of what comes out, what is refused."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from helpers.forks import Fork
from helpers.sweeping import sweep
from ovi_eval.clips.clipset import ClipSet
from ovi_lab.common.building import build
from ovi_lab.common.paths import config_dir
from ovi_lab.errors import UserError
from ovi_lab.runs.evaluation_tasks import GIVEN, LONG, TASKS, evaluation_tasks

SCORED = ("experiment=fusion", "evaluation=ball")
# steps so large that what is given makes a difference after two of them
LEARNED = (*SCORED, "ema.decay=0", "optim.factory.lr=0.2", "optim.factory.adamw_lr=0.05")
ALL = (
    f"evaluation.tasks=[{','.join(TASKS)}]",
    "evaluation.num_given=3",
    "evaluation.num_long=2",
    "evaluation.long=2.5",
)
CLIPS = dict.fromkeys(TASKS, 6) | dict.fromkeys(GIVEN, 3) | dict.fromkeys(LONG, 2)


@pytest.fixture
def clips_of(composed):
    """The data module, the tasks and the real clips of a small run."""
    config = composed([*SCORED, *ALL, "evaluation.beginning=0.3"])
    data = build(config.data, "data")
    data.prepare_data()
    data.setup("fit")
    real = data.eval_clips(6)
    tasks = evaluation_tasks(config.evaluation, real, data.latent_shapes, data.codec)
    return data, {task.name: task for task in tasks}, real


def test_each_task_gives_the_codecs_latents_of_the_real_clips(clips_of):
    data, tasks, real = clips_of
    video, audio = data.codec.encode(real.frames_NTHWC[:3], real.waves_NS[:3])
    first = {"video_given": (16, 0), "audio_given": (0, 81), "beginning": (5, 25)}  # 0.3 of 16; 5/16 of 81
    for name, counts in first.items():
        task = tasks[name]
        assert torch.equal(task.clean["video"], video)
        assert torch.equal(task.clean["audio"], audio)
        for mask, count, of in zip((task.given.video, task.given.audio), counts, (16, 81), strict=True):
            expected = np.tile(np.arange(of) < count, (3, 1))
            assert mask is None if not count else np.array_equal(mask, expected)
        given, clean = task.given_of(slice(1, 3))
        assert torch.equal(clean["audio"], audio[1:3])
        assert all(mask is None or len(mask) == 2 for mask in (given.video, given.audio))
        assert (task.benchmark, task.folder) == (name, f"tasks/{name}")
    assert all(tasks[name].given is None for name in TASKS if name not in GIVEN)
    assert {name: len(task.real) for name, task in tasks.items()} == CLIPS
    ((begin, end),) = tasks["beginning"].parts[0].spans
    assert (begin, end) == pytest.approx((2.025 * 5 / 16, 2.025))


def test_long_clips_are_scored_where_windows_add_to_them_and_at_the_seams(clips_of):
    _, tasks, _ = clips_of
    windows, one_piece = tasks["windows"], tasks["one_piece"]
    # 40 latent frames; windows of 16 share 4, so that each adds 12 of 0.1266 s
    assert windows.windows.starts == {"video": (0, 12, 24), "audio": (0, 61, 122)}
    assert (windows.shapes["video"][1], one_piece.shapes["video"][1], one_piece.shapes["audio"][0]) == (
        16,
        40,
        202,
    )
    assert windows.parts == one_piece.parts
    spans = {part.name: part.spans for part in windows.parts}
    frame = 2.025 / 16
    assert spans["window_2"] == [pytest.approx((16 * frame, 28 * frame))]
    assert spans["window_3"] == [pytest.approx((28 * frame, 40 * frame))]
    assert spans["seams"] == [pytest.approx((at * frame - 0.25, at * frame + 0.25)) for at in (16, 28)]


def clips(run):
    return ClipSet.load(run / "clips.safetensors")


@pytest.mark.slow
def test_a_run_is_scored_on_each_task_and_what_is_given_stays(made_run, clips_of):
    data, _, real = clips_of
    plain, run = made_run(*LEARNED), made_run(*LEARNED, *ALL)
    metrics = {}
    for name in TASKS:
        results = json.loads(
            ((run / "tasks" / name if name != "joint" else run) / "results.json").read_text()
        )
        assert (results["benchmark"], results["n_clips"]) == (name, CLIPS[name])
        metrics[name] = results["metrics"]
    alone = json.loads((plain / "results.json").read_text())
    # the joint task is that of a run with no other
    assert (alone["benchmark"], alone["metrics"]) == ("", metrics["joint"])
    assert (run / "clips.safetensors").read_bytes() == (plain / "clips.safetensors").read_bytes()

    given = {name: clips(run / "tasks" / name) for name in TASKS[1:]}
    frames, waves = data.codec.decode(*data.codec.encode(real.frames_NTHWC[:3], real.waves_NS[:3]))
    waves = (waves * 32767).round() / 32767  # as clips are stored
    assert torch.equal(given["video_given"].frames_NTHWC, frames)
    assert torch.equal(given["audio_given"].waves_NS, waves)
    assert torch.equal(given["beginning"].frames_NTHWC[:, :16], frames[:, :16])
    joint = clips(run)
    for name in ("audio_given", "beginning"):
        for other in (frames, joint.frames_NTHWC[:3]):
            assert not torch.equal(given[name].frames_NTHWC[:3, 16:], other[:, 16:])
    for name in ("video_given", "beginning"):
        for other in (waves, joint.waves_NS[:3]):
            assert not torch.equal(given[name].waves_NS[:3, 8100:], other[:, 8100:])

    # the first window is the clip of ordinary length
    first = given["windows"].frames_NTHWC[:, :32].int() - joint.frames_NTHWC[:2].int()
    assert first.abs().max() <= 1
    assert given["windows"].frames_NTHWC.shape == given["one_piece"].frames_NTHWC.shape == (2, 80, 16, 16, 3)
    assert given["windows"].waves_NS.shape == given["one_piece"].waves_NS.shape

    # the codec keeps the events of the real clips
    assert metrics["video_given"]["ball/real_landings_f1"]["value"] == 1
    assert metrics["audio_given"]["ball/real_hits_f1"]["value"] > 0.9
    assert "ball/onset_f1_continued" in metrics["beginning"]
    assert {"ball/onset_f1_window_2", "ball/onset_f1_seams"} <= metrics["windows"].keys() & metrics[
        "one_piece"
    ].keys()
    assert ["ball/frechet_video" in metrics[name] for name in TASKS] == [name == "joint" for name in TASKS]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["evaluation.tasks=[joint,joint]"],
            r"evaluation\.tasks is \['joint', 'joint'\]; expected .* each once",
        ),
        (["evaluation.tasks=[]"], r"evaluation\.tasks is \[\]; expected some of joint"),
        (
            [*ALL, "evaluation.length=2"],
            r"has video_given, whose clips .* evaluation\.length is 2: use evaluation\.length=1",
        ),
    ],
)
def test_tasks_that_cannot_be_are_refused_before_training(settings, words, trained, tmp_path):
    with pytest.raises(UserError, match=words):
        trained([*SCORED, *settings], tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_the_study_runs_to_its_leaderboard_with_a_column_for_each_task(data_root, tmp_path):
    small = ["debug=fast", "trainer.max_steps=2", "sampler.steps=2", "samples.every_n_steps=0"]
    small += [f"evaluation.num_{name}" for name in ("clips=6", "given=4", "long=2", "mp4=0")]
    small += ["logger.tensorboard=false", f"data.root={data_root}"]
    own = ["experiment=one_training_three_tasks", "arm=shared,mixed", "seed=0"]
    process = Fork(sweep, [*own, *small], cwd=tmp_path)
    assert process.wait() == 0, process.output
    board = json.loads((tmp_path / "runs" / "one_training_three_tasks" / "results.json").read_text())
    assert [arm["name"] for arm in board["arms"]] == ["shared", "mixed"]
    names = {column["id"] for column in board["columns"]}
    assert {f"ball/onset_f1 on {task}" for task in TASKS} <= names
    named = {"ball/real_hits_f1 on video_given", "ball/onset_f1_continued", "ball/onset_f1_seams on windows"}
    assert named <= names
    for row in (*board["arms"], *board["references"]):
        assert "ball/onset_f1 on audio_given" in row["metrics"]
    assert "ball/onset_f1 on windows" not in board["references"][0]["metrics"]  # no real clip is that long
    comparisons = [c for claim in board["study"]["claims"] for c in claim["comparisons"]]
    claimed = {c["metric"] for c in comparisons} | {c.get("versus_metric", c["metric"]) for c in comparisons}
    study = OmegaConf.load(config_dir() / "experiment" / "one_training_three_tasks.yaml")
    drawn = set(study.hydra.callbacks.leaderboard.drawn)
    assert drawn
    assert claimed | drawn <= names
    assert board["problems"] == []
