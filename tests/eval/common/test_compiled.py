"""Compiled code on disk: one process at a time compiles, and the next one loads it."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from helpers.forks import Fork, wait_for_all

LIBROSA = """
import os, pathlib
from types import SimpleNamespace
import numba

@numba.njit(cache=True)
def doubled(wave):
    return 2 * wave

pathlib.Path(__file__).with_name(f"ready.{os.getpid()}").touch()
onset = SimpleNamespace(onset_strength=lambda y, sr: doubled(y), onset_detect=lambda onset_envelope, sr: onset_envelope)
frames_to_time = lambda steps, sr: steps
"""
"""Instead of librosa, which compiles for half a minute."""


def onsets_compiled(folder: Path) -> None:
    os.environ.pop("NUMBA_CACHE_DIR", None)
    sys.path.insert(0, str(folder))
    sys.modules.pop("librosa", None)  # which torchmetrics imports
    from ovi_eval.metrics.av_align import PeaksOfSoundAndMotion

    onsets = PeaksOfSoundAndMotion().onsets
    print(onsets(np.arange(3.0), 16000).tolist(), len(sys.modules["librosa"].doubled.stats.cache_hits))


@pytest.mark.slow
def test_one_process_at_a_time_compiles_and_the_next_one_loads_it(tmp_path: Path) -> None:
    (tmp_path / "librosa.py").write_text(LIBROSA)
    cache = tmp_path / "cache" / "numba"
    cache.mkdir(parents=True)
    with FileLock(cache / "ovi_eval.lock"):
        together = [Fork(onsets_compiled, tmp_path, OVI_EVAL_CACHE=str(cache.parent)) for _ in range(2)]
        until = time.monotonic() + 120
        while (
            len(list(tmp_path.glob("ready.*"))) < 2
            and time.monotonic() < until
            and not any(fork.code for fork in together)
        ):
            time.sleep(0.05)
        time.sleep(0.5)
        assert [fork.code for fork in together] == [None, None], [fork.output for fork in together]
        assert not list(cache.rglob("*.nbi"))
    assert sorted(wait_for_all(together)) == ["[0.0, 2.0, 4.0] 0\n", "[0.0, 2.0, 4.0] 1\n"]
    assert list(cache.rglob("*.nbi"))
