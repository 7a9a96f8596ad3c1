"""A run that is killed again and again, by SIGKILL, at random moments and in the middle of saves."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from hydra import compose, initialize_config_dir

from helpers.forks import Fork
from ovi_lab.common.paths import config_dir
from ovi_lab.common.progress import SilentReporter

SECONDS = 400


def train(run_dir: Path, overrides: list[str]) -> None:
    """Do what is left of the run."""
    from ovi_lab.runs.run import execute

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", overrides=[*overrides, f"run_dir={run_dir}", "resume=auto"])
    execute(config, SilentReporter())


def saving(run_dir: Path) -> set[str]:
    """Checkpoints that are being written at this moment."""
    return {path.name for path in (run_dir / "checkpoints").glob(".step_*")}


def killed_and_resumed(run_dir: Path, overrides: list[str], kills: int, seed: int = 0) -> int:
    """Do the run, killed so many times with its data workers; how many of the kills came within a save.

    Half of the attempts are killed within the first or second save that they begin, the others at a random moment of
    about as long as the first attempt took to its first save: a slow machine is killed no earlier than a quick one.
    """
    draw = random.Random(seed)
    start = time.monotonic()
    to_first_save, within_saves = 0.0, 0
    for number in range(kills):
        left_over, seen = saving(run_dir), set[str]()
        attempt, begun = Fork(train, run_dir, overrides), time.monotonic()
        saves = draw.choice((0, 0, 1, 2)) if number else 1
        moment = begun + draw.uniform(0, 1.2) * to_first_save
        while len(seen) < saves if saves else time.monotonic() < moment:
            seen |= saving(run_dir) - left_over
            left_over &= saving(run_dir)
            assert attempt.code is None, f"the run ended by itself: {attempt.output[-3000:]}"
            assert time.monotonic() < start + SECONDS, f"not killed {kills} times within {SECONDS} s"
            time.sleep(0.002)
        to_first_save = to_first_save or time.monotonic() - begun
        attempt.signal(signal.SIGSTOP)
        within_saves += bool(saving(run_dir))
        attempt.signal(signal.SIGKILL)
        assert attempt.wait() == -signal.SIGKILL
    last = Fork(train, run_dir, overrides)
    assert last.wait(SECONDS) == 0, last.output[-3000:]
    return within_saves
