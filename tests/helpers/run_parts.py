"""The parts of a run, loaded from its checkpoint alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ovi_lab.sampling.bundle import Parts
from ovi_lab.sampling.opening import run_bundle
from ovi_lab.sampling.parts import load_parts


def load_run(path: Path, files: Mapping[str, Any] | None = None) -> Parts:
    """Text encoder, towers and codecs in float32; `files`: of umT5."""
    return load_parts(run_bundle(path, text_files=files), torch.float32)
