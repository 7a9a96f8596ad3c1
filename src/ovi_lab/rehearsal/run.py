"""Rehearsals in processes of their own, each before torch is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovi_eval.common.boundary import PrintedError
from ovi_lab.rehearsal import library


def rehearse(part: str, gpus: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What a part of the rehearsal finds.

    Args:
        part: training or inference; on a GPU `measured inference`, or `measured` and a choice of checkpointing.
        gpus: the cluster, as typed.
        overrides: of the run's configuration; `video=` and `audio=` give the shape of its clips.

    Raises:
        UserError: the library cannot be built.
        PrintedError: bad input, which the process has said in one line.
        RuntimeError: the process failed otherwise; its traceback is on standard error.
    """
    if not part.startswith("measured"):
        library.built()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "ovi_lab.rehearsal.child", str(out), part, gpus, *overrides]
        settings = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=settings, stdout=subprocess.DEVNULL, check=False)
        if done.returncode == 2:
            raise PrintedError(2)
        if done.returncode:
            raise RuntimeError(f"the rehearsal of {part} ended with exit code {done.returncode}")
        found: dict[str, Any] = json.loads(out.read_text())
        return found
