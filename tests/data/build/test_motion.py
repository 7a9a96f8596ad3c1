"""The step `motion`: the unit of its value with every flow, and RAFT's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small_videos import RECIPE, digests, moving, write
from ovi_eval.backbones import raft
from ovi_eval.check.generated import weights
from ovi_eval.common.weights import WEIGHTS_FOLDER
from ovi_eval.errors import UserError as NotLoadedError
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.clip import Candidate
from ovi_lab.data.build.recipe import read_recipe
from ovi_lab.data.build.steps.motion import Motion
from ovi_lab.errors import UserError

RIGHT, DOWN = 3.0, -4.0
"""Pixels by which the file of `planted` says that all moves."""


@pytest.fixture(scope="module")
def planted(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with RAFT's file, made so that each iteration adds a fifth of a flow of (3, -4) pixels."""
    folder = tmp_path_factory.mktemp("weights")
    tensors = weights(goldens / "raft_keys.txt.gz")
    head, mask = (f"module.update_block.{name}" for name in ("flow_head.conv2", "mask.2"))
    tensors[f"{head}.weight"].zero_()
    tensors[f"{head}.bias"] = torch.tensor([RIGHT, DOWN]) / raft.CELL / 5
    tensors[f"{mask}.weight"].zero_()
    tensors[f"{mask}.bias"] = torch.zeros(9, 64).index_fill(0, torch.tensor([4]), 400.0).flatten()
    torch.save(tensors, folder / "raft-things.pth")
    return folder


def clip(frames: int, height: int, width: int, fps: float = 24.0) -> Candidate:
    picture = torch.randint(0, 255, (frames, height, width, 3), generator=torch.Generator().manual_seed(0))
    return Candidate("a", "a.mp4", 0.0, picture.to(torch.uint8), fps, None, 16000)


@pytest.mark.slow
def test_raft_s_flow_is_longer_sides_a_second(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(planted))
    step = Motion(every=2, flow="raft-things", iterations=5)
    assert step.missing() is None
    assert step.digests().keys() == {"raft-things.pth"}
    step.setup()
    assert step.measure(clip(4, 50, 80))["motion"] == pytest.approx(5.0 * 24 / 80, rel=1e-4)
    assert step.measure(clip(4, 50, 80, fps=12.0))["motion"] == pytest.approx(5.0 * 12 / 80, rel=1e-4)
    smaller = Motion(every=2, flow="raft-things", iterations=5, side=64)
    smaller.setup()
    assert smaller.measure(clip(4, 50, 80))["motion"] == pytest.approx(5.0 * 24 / 64, rel=1e-4)
    more = Motion(every=2, flow="raft-things", iterations=10)
    more.setup()
    assert more.measure(clip(4, 50, 80))["motion"] == pytest.approx(10.0 * 24 / 80, rel=1e-4)
    assert more.measure(clip(1, 50, 80)) == {"motion": 0.0, "still_share": 1.0}


def test_farneback_s_flow_does_not_depend_on_the_side() -> None:
    """A picture that moves by a hundredth of its side from frame to frame."""
    coarse = 255 * torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    wide = torch.nn.functional.interpolate(coarse, (420, 420), mode="bilinear")[0].permute(1, 2, 0)
    shifted = torch.stack([wide[:400, 4 * t : 4 * t + 400] for t in range(4)]).round().to(torch.uint8)
    found = []
    for side in (128, 256, 400):
        step = Motion(every=1, side=side)
        step.setup()
        found.append(step.measure(Candidate("a", "a.mp4", 0.0, shifted, 24.0, None, 16000))["motion"])
    assert found == pytest.approx([0.01 * 24] * 3, rel=0.15)


@pytest.mark.slow
def test_raft_in_a_build_is_named_refused_and_skipped(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "videos" / "a.mp4", moving(1))
    motion = {"flow": "raft-things", "every": 20, "iterations": 1}
    plain: dict[str, Any] = {**RECIPE, "steps": {"motion": motion, "loudness": {}}, "duplicates": {}}
    plain["keep"] = {"motion": {"min": 0.002}, "mean_volume": {"min": -60}}
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path / "nowhere"))
    recipe, out = read_recipe("mine", plain), tmp_path / "out"
    with pytest.raises(
        UserError,
        match=r"step motion of recipe mine cannot run: .*raft-things\.pth from https.*--skip-missing",
    ):
        build(tmp_path / "videos", out, recipe, BuildOptions(quiet=True))
    assert not out.exists()
    _, skipped = build(tmp_path / "videos", out, recipe, BuildOptions(skip_missing=True, quiet=True))
    assert skipped == ["motion"]
    assert json.loads((out / "manifest.json").read_text())["not_applied"] == ["motion"]
    monkeypatch.setenv(WEIGHTS_FOLDER, str(planted))
    build(tmp_path / "videos", out, recipe, BuildOptions(quiet=True))
    (row,) = map(json.loads, (out / "clips.jsonl").read_text().splitlines())
    assert row["scores"]["motion"] == pytest.approx(1.0 * 16 / 48, rel=1e-3)
    steps = json.loads((out / "manifest.json").read_text())["steps"]
    assert steps["motion"]["weights"].keys() == {"raft-things.pth"}
    one = digests(out)
    build(tmp_path / "videos", tmp_path / "again", recipe, BuildOptions(quiet=True))
    assert digests(tmp_path / "again") == one
    (tmp_path / "raft-things.pth").write_bytes(b"none")
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    with pytest.raises(NotLoadedError, match=r"raft-things\.pth") as error:
        build(tmp_path / "videos", tmp_path / "third", recipe, BuildOptions(quiet=True))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flow": "raft"}, "flow is 'raft'; expected one of farneback, raft-things, raft-sintel"),
        ({"iterations": 5}, "iterations are RAFT's; leave them out, or name raft-things as flow"),
        (
            {"flow": "raft-things", "iterations": 0},
            "iterations is 0; expected a whole number of iterations from 1",
        ),
        ({"side": 8}, "side is 8; expected a whole number of pixels from 32"),
        ({"every": True}, "every is True; expected a whole number of frames from 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_recipe("mine", {"steps": {"motion": settings}})
