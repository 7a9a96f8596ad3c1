"""A build by Ray Data, on a cluster that is started on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from helpers.forks import Fork
from helpers.small_videos import RECIPE, digests
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.engine import Work
from ovi_lab.data.build.ray_engine import RayWorker, run_on_ray
from ovi_lab.data.build.recipe import Recipe, read_recipe
from ovi_lab.errors import UserError


def build_on_ray(videos: Path, out: Path) -> None:
    build(videos, out, read_recipe("planted", RECIPE), BuildOptions(engine="ray", workers=1, quiet=True))


@pytest.mark.slow
def test_ray_gives_the_bytes_of_one_process(videos: Path, once: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    fork = Fork(build_on_ray, videos, tmp_path / "out")
    assert fork.wait() == 0, fork.output
    assert digests(tmp_path / "out") == once


def test_a_machine_without_the_work_folder_says_so(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"elsewhere is not there on .*at the same place on every machine"):
        RayWorker(Work(tmp_path / "elsewhere", recipe))


def test_ray_that_is_not_installed_is_named(recipe: Recipe, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"engine ray needs Ray: pip install .*\[ray\].*, or use --engine processes"
    ):
        list(run_on_ray([], Work(tmp_path, recipe), 1))
