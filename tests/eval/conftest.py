"""Fixtures that several tests of ovi_eval use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.generated_weights import GeneratedWeights
from ovi_eval.check.goldens import Goldens


@pytest.fixture(scope="session")
def generated(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedWeights]:
    """Published networks' weight files with generated tensors, and the clips of ../shared where they are there."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "generated_weights"
    folder.mkdir(exist_ok=True)
    clips = goldens.parents[2] / "shared" / "clips"
    setting = GeneratedWeights(Goldens(goldens), clips if clips.is_dir() else None, folder)
    yield setting
    setting.forget()
