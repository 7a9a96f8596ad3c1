"""Where numbers come from: versions without imports, the state of the code, and a hash that order cannot change."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.ball_clips import real_clips
from ovi_eval import __version__
from ovi_eval.clips.items import MemoryItem
from ovi_eval.common.provenance import configuration_hash, facts, ffmpeg, git_state, machine, versions
from ovi_eval.errors import UserError
from ovi_eval.results.files import read
from ovi_eval.scoring.ball_world import Score, Scored, score_clips
from ovi_eval.scoring.results_of import metric_value, run_results


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.txt").write_text("one")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_versions_are_those_installed_and_optional_ones_only_if_there() -> None:
    found = versions()
    assert found["ovi_eval"] == __version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert set(found) >= {"torchmetrics", "numpy", "scipy", "av"}
    assert all(found.values())


def test_the_decoder_is_ffmpeg_with_its_numbers() -> None:
    found = ffmpeg()
    assert {"libavcodec", "libavformat", "libswresample", "libswscale"} <= set(found)
    assert all(part.isdecimal() for text in found.values() for part in text.split("."))


def test_versions_import_nothing_heavy() -> None:
    code = (
        "import sys, ovi_eval.common.provenance as p; p.facts(); "
        "print([m for m in ('torch', 'cv2', 'librosa', 'onnxruntime', 'transformers', 'scipy') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_machine_is_one_line() -> None:
    assert machine().startswith(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    assert "\n" not in machine()


def test_git_state_is_the_commit_and_whether_tracked_files_differ(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "new.txt").write_text("untracked files change no code that ran")
    (checkout / "below").mkdir()
    assert git_state(checkout / "below") == git_state(checkout) == {"commit": commit, "dirty": False}
    (checkout / "a.txt").write_text("two")
    assert git_state(checkout) == {"commit": commit, "dirty": True}


def test_no_git_no_checkout_and_no_commit_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "gone") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None
    assert "git" not in facts(tmp_path)


def test_the_hash_is_of_canonical_json_and_knows_no_order() -> None:
    options = {"metrics": ("fvd", "fad"), "limit": None, "reference": Path("réal"), "seed": 3}
    text = '{"limit":null,"metrics":["fvd","fad"],"reference":"réal","seed":3}'
    assert configuration_hash(options) == hashlib.sha256(text.encode()).hexdigest()
    turned = dict(reversed(options.items()))
    assert configuration_hash(turned) == configuration_hash(options)
    assert configuration_hash({**options, "seed": 4}) != configuration_hash(options)
    assert configuration_hash({"x": {"b", "a"}}) == configuration_hash({"x": ["a", "b"]})
    assert configuration_hash({"x": True}) != configuration_hash({"x": 1})


@pytest.mark.parametrize("value", [float("nan"), object(), b"x"])
def test_an_option_that_has_no_json_form_is_named(value: object) -> None:
    with pytest.raises(UserError, match=r"option a\.b\[1\] is .* which cannot be hashed"):
        configuration_hash({"a": {"b": [1, value]}})


def test_a_record_says_where_it_comes_from_and_the_caller_may_say_more(tmp_path: Path) -> None:
    clips = real_clips(4)
    scored = score_clips(clips, metrics=["ball/event_sync"])
    made = run_results(
        clips, scored, name="m", benchmark="ball", provenance={"git": "their own", "clips": "x"}
    )
    assert made.provenance["versions"] == versions()
    assert made.provenance["decoder"] == ffmpeg()
    assert made.provenance["machine"] == machine()
    assert (made.provenance["git"], made.provenance["clips"]) == ("their own", "x")
    assert made.benchmark == "ball"
    assert read(made.write(tmp_path)) == made


def test_items_are_recorded_as_the_clips_they_are_and_a_score_keeps_every_field() -> None:
    clips = real_clips(3)
    score = Score(
        2.5,
        3,
        1.0,
        "lower",
        "ms",
        "2",
        "x",
        "frechet",
        (2.0, 3.0),
        16,
        0.5,
        {"w.pt": "00"},
        "as is",
        ("few",),
        False,
    )
    scored = Scored({"m": score}, [{}, {}, {}], {1: "torn"}, {}, [{}, {"m": "torn"}, {}])
    items = [MemoryItem(clips, place) for place in range(3)]
    of_set, of_items = (run_results(source, scored, name="m") for source in (clips, items))
    assert of_set.clips == of_items.clips
    assert [clip.id for clip in of_items.clips] == clips.ids
    assert of_items.clips[1].failed == "torn"
    assert of_items.clips[1].reasons == {"m": "torn"}
    value = metric_value(score)
    assert {name: getattr(value, name) for name in vars(score)} == vars(score)
