"""ovi-eval score from the outside: a killed run resumes, several processes give the numbers of one."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.forks import command, ranks, run_module, wait_for_all
from helpers.small_metrics import write_clips
from ovi_eval.cli import main
from ovi_eval.results.reading import read

METRICS = "temporal_flickering"


def numbers(path: Path) -> dict[str, object]:
    """What must not depend on how the clips were scored."""
    body = json.loads(path.read_text())
    lines = (path.parent / body["per_clip"]).read_text()
    return {"metrics": body["metrics"], "config_hash": body["config_hash"], "clips": lines}


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = write_clips(tmp_path / "clips", 40)
    out = tmp_path / "results" / "mine.json"
    words = ["score", str(clips), "--metrics", METRICS]
    cache = tmp_path / "cache"
    monkeypatch.setenv("OVI_EVAL_CACHE", str(cache))
    killed = 0
    for wanted in (3, 20):
        running = command("ovi_eval.cli", *words, "--out", str(out))
        until = time.monotonic() + 60
        while running.code is None and len(list(cache.rglob("*.safetensors"))) < wanted:
            assert time.monotonic() < until
            time.sleep(0.002)
        running.signal(signal.SIGKILL)
        killed += running.wait() == -signal.SIGKILL
    assert killed
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert len(kept) >= 3
    for path in kept:  # a kill may leave a temporary file, never half an entry
        assert load_file(path)
    assert main([*words, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing was computed twice
    whole = tmp_path / "whole.json"
    assert main([*words, "--out", str(whole), "--no-cache"]) == 0
    mine, fresh = numbers(out), numbers(whole)
    assert mine == fresh


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", 5)
    (clips / "broken.mp4").write_bytes(b"no clip")
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    words = ["score", str(clips), "--metrics", f"{METRICS},ball/agreement", "--no-cache"]
    printed = wait_for_all(ranks(run_module, "ovi_eval.cli", [*words, "--out", str(two)]))
    assert main([*words, "--out", str(one)]) == 0
    mine, theirs = numbers(one), numbers(two)
    mine["clips"] = theirs["clips"] = None
    assert mine == theirs
    assert read(one).clips == read(two).clips
    assert read(one).metrics["temporal_flickering"].n == 5
    assert "".join(printed).count("two.json") == 1  # one process alone reports


def test_a_part_of_the_clips_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = write_clips(tmp_path / "clips", 4)
    out = tmp_path / "r.json"
    words = ["score", str(clips), "--metrics", METRICS, "--no-cache", "--out", str(out)]
    assert main([*words, "--limit", "3", "--benchmark", "mine", "--name", "model"]) == 0
    results = read(out)
    assert results.metrics[METRICS].comparable is False
    assert results.n_clips == 3
    assert results.benchmark == "mine"
    printed = capsys.readouterr()
    assert "only the first 3 of 4 clips are scored: not comparable" in printed.out
    assert printed.err.splitlines()[-1] == f"next: ovi-eval leaderboard {tmp_path}"
    assert main([*words, "--limit", "9"]) == 0  # more than there are is all of them
    assert read(out).metrics[METRICS].comparable is True
    assert read(out).config_hash != results.config_hash
    for wrong in ("0", "-2"):
        assert main([*words, "--limit", wrong]) == 2
    assert main([*words, "--device", "tpu"]) == 2
    assert main([*words, "--workers", "-1"]) == 2


def test_results_say_how_they_were_made(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", 3)
    out = tmp_path / "r.json"
    assert main(["score", str(clips), "--metrics", METRICS, "--no-cache", "--out", str(out)]) == 0
    results = read(out)
    assert results.metrics[METRICS].preprocessing
    assert results.metrics[METRICS].ci95 is not None
    assert len(results.config_hash) == 64
    assert {"versions", "decoder", "machine"} <= set(results.provenance)
    assert results.provenance["decoder"]["libavcodec"]


def test_the_face_detector_and_ready_crops_choose_the_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OVI_EVAL_WEIGHTS", raising=False)
    clips = write_clips(tmp_path / "clips", 1)
    for options, named in (
        ([], "sync needs SyncNet weights: syncnet_v2.model"),
        (["--detector", "ultraface"], "sync_ultraface needs SyncNet weights"),
        (["--crops"], "sync_crops needs SyncNet weights"),
    ):
        assert (
            main(["score", str(clips), "--metrics", "sync", *options, "--out", str(tmp_path / "r.json")]) == 2
        )
        assert named in capsys.readouterr().err
    assert main(["score", str(clips), "--detector", "s3df"]) == 2
    assert "did you mean s3fd?" in capsys.readouterr().err
