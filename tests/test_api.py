"""The Python API: opening, sampling, composing, training and scoring, with a small Ovi and one tiny run."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ovi_eval
import ovi_lab
import ovi_lab.train
from ovi_eval.clips.container import opened
from ovi_eval.clips.writing import write_mp4
from ovi_lab import api
from ovi_lab.data.decode import read_media
from ovi_lab.data.media_format import MediaFormat
from ovi_lab.data.worlds.bouncing_ball import BouncingBall
from ovi_lab.errors import UserError
from ovi_lab.sampling.clip_files import read_record

PROMPT = "a red ball bounces three times low drum"


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> api.Run:
    """A run of two steps, in the folder where it is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("runs"))
        return ovi_lab.train(
            "experiment=fusion",
            "debug=fast",
            "evaluation=none",
            "logger.tensorboard=false",
            f"data.root={data_root}",
        )


@pytest.fixture(scope="module")
def ball(run: api.Run) -> api.Model:
    return run.load()


@pytest.fixture(scope="module")
def ovi(small_ovi: Path) -> api.Model:
    return ovi_lab.load(small_ovi)


def test_the_import_takes_no_time_and_nothing_heavy() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import ovi_lab, ovi_eval; print(time.perf_counter() - t);"
        "print(sorted({'torch', 'numpy', 'hydra', 'pydantic', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.splitlines()
    assert float(seconds) < 0.2
    assert heavy == "[]"


def test_the_names_are_there_whatever_was_imported_before() -> None:
    assert ovi_lab.load is api.load
    assert ovi_lab.compose is api.compose
    assert callable(ovi_lab.train)
    assert callable(ovi_lab.train.main)
    assert callable(ovi_eval.score)
    for package in (ovi_lab, ovi_eval):
        with pytest.raises(AttributeError, match="smaple"):
            package.smaple  # noqa: B018


@pytest.mark.slow
def test_a_finished_run(
    run: api.Run, ball: api.Model, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.folder.name == "fusion"
    assert run.folder.parent.name == "runs"
    assert run.losses["loss"] > 0
    assert run.results is None
    assert ball.name == "fusion"
    assert ball.example == PROMPT
    assert not ball.takes_image
    assert ball.config["sampler"]["steps"] == 12
    monkeypatch.chdir(run.folder.parents[1])
    before = (run.folder / "done.json").stat().st_mtime_ns
    again = ovi_lab.train(
        "experiment=fusion",
        "debug=fast",
        "evaluation=none",
        "logger.tensorboard=false",
        f"data.root={data_root}",
    )
    assert again == run
    assert (run.folder / "done.json").stat().st_mtime_ns == before


def test_a_clip_of_a_run(ball: api.Model, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    clip = ball.sample(PROMPT, seed=3, steps=2, on_step=lambda *at: steps.append(at))
    assert steps[-1] == (2, 2)
    assert clip.frames.dtype == torch.uint8
    assert clip.frames.ndim == 4
    assert len(clip.wave) == round(len(clip.frames) / clip.fps * clip.sample_rate)
    same = ball.sample(PROMPT, seed=3, steps=2)
    assert torch.equal(same.frames, clip.frames)
    assert torch.equal(same.wave, clip.wave)
    assert not torch.equal(ball.sample(PROMPT, seed=4, steps=2).frames, clip.frames)
    assert not torch.equal(ball.sample(PROMPT, seed=3, steps=3).frames, clip.frames)
    file = clip.save(tmp_path / "new" / "clip.mp4")
    record, whole = read_record(file)
    assert whole
    assert record == clip.record
    assert (record["prompt"], record["seed"], record["sampler"]["steps"]) == (PROMPT, 3, 2)


@pytest.mark.slow
def test_a_run_takes_given_media(ball: api.Model, tmp_path: Path) -> None:
    """With the codecs of the ball world, whose latent frames hold two frames each and tokens 25 ms."""
    world = BouncingBall().render(range(1), 7)
    frames, wave, fps, rate = world.frames_NTHWC[0], world.waves_NS[0], world.fps, world.sample_rate
    assert len(frames) == ball.config["clips"]["frames"]
    end = len(frames) / fps
    whole = write_mp4(tmp_path / "whole.mp4", frames, fps, wave, rate, enlarge_to=0)
    short = write_mp4(
        tmp_path / "short.mp4", frames[:9], fps, wave[: round(9 / fps * rate)], rate, enlarge_to=0
    )
    members = {"mp4": whole.read_bytes(), "json": b'{"caption": "x"}'}
    read = read_media(members, MediaFormat(len(frames), *frames.shape[1:3], fps, rate))
    fade, token = round(0.02 * rate), rate // 40
    until = int(8 / fps * 40 + 1e-6)  # tokens of the beginning
    for fields, given_seconds, seen, heard in (
        ({"video": whole}, {"video": [[0.0, end]]}, slice(None), None),
        ({"audio": whole}, {"audio": [[0.0, end]]}, None, slice(None)),
        (
            {"start": short},
            {"video": [[0.0, 8 / fps]], "audio": [[0.0, until / 40]]},
            slice(8),
            slice(until * token - 2 * fade),
        ),
        (
            {"clip": whole, "redo": "audio:0.5-1"},
            {"video": [[0.0, end]], "audio": [[0.0, 0.5], [1.0, end]]},
            slice(None),
            slice(rate + fade, None),
        ),
    ):
        made = ball.sample(PROMPT, seed=3, steps=1, **fields)
        assert made.record["given_seconds"] == {
            m: [[round(a, 4), round(b, 4)] for a, b in spans] for m, spans in given_seconds.items()
        }
        assert made.frames.shape == frames.shape
        assert made.wave.shape == wave.shape
        if seen is not None:
            assert torch.equal(made.frames[seen], read.frames_THWC[seen])
        if heard is not None:
            torch.testing.assert_close(made.wave[heard], read.wave_S[heard], atol=1e-3, rtol=0)
        if "video" not in made.record["given_sha256"]:
            assert not torch.equal(made.frames, read.frames_THWC)
        record, complete = read_record(made.save(tmp_path / "made.mp4"))
        assert complete
        assert record == made.record


def test_a_clip_in_a_notebook_is_a_player_that_holds_it(ball: api.Model, tmp_path: Path) -> None:
    shown = ball.sample("a <b>ball</b>", steps=1)._repr_html_()
    content = base64.b64decode(re.search(r'src="data:video/mp4;base64,([^"]+)"', shown)[1])
    (tmp_path / "clip.mp4").write_bytes(content)
    with opened(tmp_path / "clip.mp4") as (container, _):
        assert container.streams.video[0].height == 256
        assert container.streams.audio
    assert "<b>" not in shown
    assert "&lt;b&gt;ball" in shown


def test_a_released_model_has_the_released_defaults(ovi: api.Model) -> None:
    sampler = ovi.config["sampler"]
    assert (sampler["steps"], sampler["video_guidance"], sampler["skip_layers"]) == (50, 4.0, [11])
    assert ovi.takes_image
    assert "<S>" in ovi.example
    assert "Audio:" in ovi.example
    assert type(ovi.model)(**ovi.config["model"]).settings == ovi.config["model"]
    assert ovi.config["clips"]["frames"] == 121


@pytest.mark.slow
def test_negative_prompts_image_and_shape_of_a_released_model(ovi: api.Model, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    first = ovi.sample("rain", steps=1, negative_video="sun", image=tmp_path / "red.png")
    assert first.record["negative_video"] == "sun"
    assert first.record["image"] == "red.png"
    assert first.record["negative_audio"] == "robotic, muffled, echo, distorted"
    plain = ovi.sample("rain", steps=1, size=(32, 128))
    assert plain.frames.shape == (121, 32, 128, 3)
    assert plain.record["negative_video"] == "jitter, bad hands, blur, distortion"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": 7}, "prompt is 7: expected a text"),
        ({"prompt": "<S>no end"}, "<E>"),
        ({"seed": -1}, "seed is -1: expected a whole number"),
        ({"step": 3}, "unknown setting 'step' of sample, did you mean steps?"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"solver": "unipcc"}, "unipc"),
        ({"negative_video": ["a"]}, "negative_video"),
        ({"skip_layers": [99]}, "block 99"),
        ({"image": "none.png"}, "no image at none.png"),
        ({"video": "none.mp4"}, "no file at none.mp4, where the given video should be"),
        ({"redo": "audio:2-1"}, "redo=audio:2-1 ends before it begins"),
        ({"size": "wide"}, "wide"),
        ({"size": (64, 64), "aspect": "1:1"}, "give one"),
    ],
)
def test_a_bad_argument_of_sample_is_one_line(ovi: api.Model, arguments: dict, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        ovi.sample(**{"prompt": "rain", **arguments})
    assert "\n" not in str(error.value)


def test_bad_arguments_elsewhere_are_one_line(small_ovi: Path, ball: api.Model, tmp_path: Path) -> None:
    for call, said in (
        (lambda: ovi_lab.load(tmp_path / "runs" / "nothing"), "nothing"),
        (
            lambda: ovi_lab.load(small_ovi, offlod=True),
            "unknown option 'offlod' of load, did you mean offload?",
        ),
        (lambda: ovi_lab.load(small_ovi, dtype="fp8"), "dtype is 'fp8'"),
        (lambda: ovi_lab.load(small_ovi, device="warp"), "device=warp cannot be used"),
        (lambda: ball.sample("a ball", image=__file__), "without a given image"),
        (lambda: ovi_lab.compose("trainer.max_step=5"), "max_steps"),
        (lambda: ovi_lab.compose(config="plan"), "expected train or sample"),
        (lambda: ovi_lab.compose("--multirun"), "expected key=value"),
        (lambda: ovi_lab.train("experiment=fusion_ablation"), "ovi-train experiment=fusion_ablation"),
    ):
        with pytest.raises(UserError, match=re.escape(said)) as error:
            call()
        assert "\n" not in str(error.value)


def test_configurations_are_those_of_the_commands(small_ovi: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    train = ovi_lab.compose("experiment=fusion", "trainer.max_steps=50", "name=mine")
    assert train.trainer.max_steps == 50
    assert train.run_dir == str(tmp_path / "runs" / "mine")
    sample = ovi_lab.compose(f"checkpoint={small_ovi}", "prompt=rain, and wind: loud", config="sample")
    assert sample.sampler.steps == 50
    assert sample.prompt == "rain, and wind: loud"
    assert ovi_lab.compose("checkpoint=runs/x/last", config="sample").sampler.steps == 12


def test_scores_are_those_of_the_command(ball: api.Model, tmp_path: Path, capsys) -> None:
    from ovi_eval.cli import main
    from ovi_eval.results.reading import read

    for seed in range(2):
        ball.sample(PROMPT, seed=seed, steps=1).save(tmp_path / "made" / f"{seed}.mp4")
    asked = {"metrics": ["temporal_flickering"], "no_cache": True}
    results = ovi_eval.score(tmp_path / "made", out=tmp_path / "mine.json", name="ball", **asked)
    words = [
        "score",
        str(tmp_path / "made"),
        "--metrics",
        "temporal_flickering",
        "--no-cache",
        "--name",
        "ball",
    ]
    assert main([*words, "--out", str(tmp_path / "theirs.json")]) == 0
    theirs = read(tmp_path / "theirs.json")
    assert results.n_clips == 2
    assert results.name == "ball"
    assert theirs.metrics == results.metrics == read(tmp_path / "mine.json").metrics
    assert theirs.config_hash == results.config_hash
    for wrong, said in (
        ({"metrics": "flicker"}, "flicker"),
        ({"metrics": ""}, "metrics expects names"),
        ({"limit": 0}, "limit must be 1 or more, got 0"),
        ({"weights": tmp_path / "no"}, "no such folder"),
        ({"out": tmp_path}, "is a folder"),
        ({"detector": "eyes"}, "there are s3fd, ultraface"),
        ({"worker": 2}, "did you mean workers?"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            ovi_eval.score(tmp_path / "made", **{**asked, **wrong})
    with pytest.raises(UserError, match="absent"):
        ovi_eval.score(tmp_path / "absent", **asked)
