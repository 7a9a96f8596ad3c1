"""Compiled code on disk: processes that begin together leave files that the next one can load."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import numpy as np
from ovi_eval.metrics.av_align import onsets
wave = np.zeros(16000, dtype=np.float32)
wave[[4000, 9000]] = 1.0
print(onsets(wave, 16000).tolist())
"""


@pytest.mark.slow
def test_processes_that_compile_at_once_leave_what_the_next_one_can_load(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment["OVI_EVAL_CACHE"] = str(tmp_path)
    command = [sys.executable, "-c", PROGRAM]
    together = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    heard = [process.communicate(timeout=300)[0] for process in together]
    assert [process.returncode for process in together] == [0, 0]
    later = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (later.returncode, later.stdout) == (0, heard[0]), later.stderr
    assert heard == [heard[0]] * 2
    assert len(json.loads(heard[0])) >= 2
    assert list((tmp_path / "numba").rglob("*.nbi"))
