"""A run that is killed again and again, by SIGKILL, at random moments and in the middle of saves."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ovi_lab.common.paths import config_dir
from ovi_lab.common.progress import SilentReporter
from ovi_lab.runs.run import execute


def _attempt(config: DictConfig) -> int:
    """Fork a process that does what is left of the run; its number."""
    child = os.fork()
    if child:
        os.setpgid(child, child)  # its data workers are killed with it
        return child
    code = 1
    try:
        execute(config, SilentReporter())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _saving(run_dir: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any((run_dir / "checkpoints").glob(".step_*"))


def run_with_kills(run_dir: Path, overrides: Sequence[str], kills: int, seed: int = 0) -> None:
    """Do a run whose first `kills` attempts are killed; prints how many were, and how many of them while saving.

    Each attempt is a fork of this process, so that it starts in a moment; `resume=auto` continues where the one before
    was killed.
    """
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", overrides=[*overrides, f"run_dir={run_dir}", "resume=auto"])
    draw = random.Random(seed)
    killed = while_saving = 0
    while True:
        child = _attempt(config)
        at, wait_for_save = time.monotonic() + draw.uniform(0.1, 1.2), draw.random() < 0.5
        while killed < kills:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if (wait_for_save and time.monotonic() > at - 1 and _saving(run_dir)) or (
                not wait_for_save and time.monotonic() > at
            ):
                while_saving += _saving(run_dir)
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                killed += 1
                status = -1
                break
            time.sleep(0.0005)
        else:
            _, status = os.waitpid(child, 0)
        if status == 0:
            print(f"killed {killed} times, {while_saving} of them while saving")
            return
        if status > 0:
            raise SystemExit(f"the run failed by itself (status {status})")
