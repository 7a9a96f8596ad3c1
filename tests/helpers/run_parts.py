"""The parts of a run, loaded from its checkpoint alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovi_lab.sampling.bundle import Parts
from ovi_lab.sampling.opening import run_bundle


def load_run(path: Path, files: Mapping[str, Any] | None = None) -> Parts:
    """Text encoder, towers and codecs in float32; `files`: of umT5."""
    return run_bundle(path, text_files=files).load()
