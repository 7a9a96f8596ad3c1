"""A build by Ray Data, on a cluster that is started on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from helpers.forks import Fork
from helpers.small_videos import RECIPE, digests
from ovi_lab.data.build import ray_engine
from ovi_lab.data.build.build import BuildOptions, build
from ovi_lab.data.build.engine import Work
from ovi_lab.data.build.items import WORK, all_items
from ovi_lab.data.build.ray_engine import RayWorker, run_on_ray
from ovi_lab.data.build.recipe import Recipe, read_recipe
from ovi_lab.errors import UserError


def build_on_ray(videos: Path, out: Path, kill_after: int | None = None) -> None:
    """A build, which kills itself and Ray once so many sources are finished (0: before Ray is started)."""
    real = ray_engine.run_on_ray

    def killing(*arguments: Any) -> Iterator[str]:
        for finished, name in enumerate(chain([""], real(*arguments))):
            if finished == kill_after:
                os.killpg(0, signal.SIGKILL)
            if name:
                yield name

    ray_engine.run_on_ray = killing
    build(videos, out, read_recipe("planted", RECIPE), BuildOptions(engine="ray", workers=1, quiet=True))


@pytest.mark.slow
def test_ray_gives_the_bytes_of_one_process_after_kills(videos: Path, recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    many, out = tmp_path / "videos", tmp_path / "out"
    for copy in range(4):
        shutil.copytree(videos, many / str(copy))
    build(many, tmp_path / "once", recipe, BuildOptions(quiet=True))
    for number, kill_after in enumerate((0, 1, 1)):
        killed = Fork(build_on_ray, many, out, kill_after)
        code = killed.wait()
        # 0: its actor may have finished all others by the time that the second kill came
        assert code == -signal.SIGKILL or (code == 0 and number == 2), killed.output
        assert (out / "manifest.json").exists() == (code == 0)
        assert bool(all_items(out / WORK)) == (number > 0)
    assert (last := Fork(build_on_ray, many, out)).wait() == 0, last.output
    assert digests(out) == digests(tmp_path / "once")
    assert not list((out / WORK).glob(".*.tmp"))


def test_a_machine_without_the_work_folder_says_so(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"elsewhere is not there on .*at the same place on every machine"):
        RayWorker(Work(tmp_path / "elsewhere", recipe))


def test_ray_that_is_not_installed_is_named(recipe: Recipe, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"engine ray needs Ray: pip install .*\[ray\].*, or use --engine processes"
    ):
        list(run_on_ray([], Work(tmp_path, recipe), 1))
