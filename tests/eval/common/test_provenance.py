"""Where numbers come from: versions without imports, the state of the code, and a hash that order cannot change."""

import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.ball_clips import real_clips, score
from ovi_eval import __version__
from ovi_eval.clips.items import memory_items
from ovi_eval.common.provenance import configuration_hash, facts, ffmpeg, git_state, machine, versions
from ovi_eval.errors import UserError
from ovi_eval.results.files import MetricValue
from ovi_eval.results.reading import read
from ovi_eval.scoring.results_of import Scored, run_results


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.txt").write_text("one")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_versions_decoder_and_machine_are_those_here() -> None:
    found, decoder = versions(), ffmpeg()
    assert found["ovi_eval"] == __version__
    assert found["python"] == platform.python_version()
    # PyPI's build with CUDA has +cu… in the module alone
    assert torch.__version__.partition("+")[0] == found["torch"].partition("+")[0]
    assert set(found) >= {"torchmetrics", "numpy", "scipy", "av"}
    assert all(found.values())
    assert {"libavcodec", "libavformat", "libswresample", "libswscale"} <= set(decoder)
    assert all(part.isdecimal() for text in decoder.values() for part in text.split("."))
    assert machine().startswith(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    assert "\n" not in machine()


def test_versions_import_nothing_heavy() -> None:
    code = (
        "import sys, ovi_eval.common.provenance as p; p.facts(); "
        "print([m for m in ('torch', 'cv2', 'librosa', 'onnxruntime', 'transformers', 'scipy') if m in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert told.stdout.strip() == "[]"


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
    scored = score(clips, names=["ball/event_sync"])
    made = run_results(
        memory_items(clips), scored, name="m", benchmark="ball", provenance={"git": "their own", "clips": "x"}
    )
    assert made.provenance["versions"] == versions()
    assert made.provenance["decoder"] == ffmpeg()
    assert made.provenance["machine"] == machine()
    assert (made.provenance["git"], made.provenance["clips"]) == ("their own", "x")
    assert made.benchmark == "ball"
    assert read(made.write(tmp_path)) == made


def test_results_name_clips_reasons_and_what_looked_at_them() -> None:
    clips = real_clips(3)
    value = MetricValue(2.5, 3, "lower", warnings=("few, as in /home/somebody/clips/a.mp4",))
    judges = {"judges": {"sha256": "00"}}
    scored = Scored({"m": value}, [{}, {}, {}], {1: "torn"}, judges, [{}, {"m": "torn"}, {}], {2: 0})
    made = run_results(memory_items(clips), scored, name="m")
    assert [clip.id for clip in made.clips] == clips.ids
    assert [clip.caption for clip in made.clips] == clips.captions
    assert (made.clips[1].failed, made.clips[1].reasons) == ("torn", {"m": "torn"})
    assert made.clips[2].same_as == clips.ids[0]
    assert made.metrics["m"] == replace(value, warnings=("few, as in a.mp4",))
    assert made.provenance["judges"] == judges["judges"]
