"""Scoring of sampled clips by `ovi-eval score` in a process of its own, while the training continues."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ovi_eval.clips.clipset import ClipSet
from ovi_eval.common.plain_data import read_json

log = logging.getLogger("ovi_lab.val_metrics")

MOST_WAITING = 1
"""Sets of clips that may wait while one is scored: at full size a set takes gigabytes on the disk."""
_NAMED = re.compile(r"step_(\d+)_at_(\d+)\.samples\.safetensors")
# one process, whatever launched this one
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class BackgroundScores:
    """Saved sets of clips, scored one after another.

    A set is removed once its values are collected, so that those of an interrupted run are scored when it is resumed.

    Args:
        folder: holds `reference.safetensors`, the saved sets, and the results as `step_N.json`.
        metrics: names as `ovi-eval metrics` lists them.
        device: of the metrics' networks.
        benchmark: name of the clips in the results.
    """

    def __init__(self, folder: Path, metrics: Sequence[str], device: str, benchmark: str) -> None:
        self.folder, self.metrics, self.device, self.benchmark = folder, list(metrics), device, benchmark
        self._waiting: list[Path] = []
        self._running: tuple[Path, subprocess.Popen[bytes], IO[bytes]] | None = None

    @property
    def busy(self) -> bool:
        """Whether as many sets wait as may."""
        return len(self._waiting) >= MOST_WAITING and self._running is not None

    @property
    def under_way(self) -> int | None:
        """The optimiser step whose clips are being scored."""
        return None if self._running is None else _numbers(self._running[0])[0]

    def add(self, step: int, logged_as: int, clips: ClipSet) -> None:
        """Save the clips of an optimiser step, and begin to score them as soon as no others are.

        Args:
            step: the optimiser step.
            logged_as: the step under which the values are to be logged.
        """
        path = self.folder / f"step_{step:06d}_at_{logged_as}.samples.safetensors"
        clips.save(path)
        self._waiting.append(path)
        self._start()

    def resume(self, before: int) -> None:
        """Take up the sets that an interrupted run left, up to step `before`; it samples later ones again."""
        for path in sorted(self.folder.glob("step_*.samples.safetensors")):
            if not _NAMED.fullmatch(path.name):
                continue
            if _numbers(path)[0] > before:
                path.unlink()
            else:
                self._waiting.append(path)
        self._start()

    def collect(self) -> Iterator[tuple[int, dict[str, float]]]:
        """What is finished by now: the step under which it is to be logged, and the values."""
        if self._running is None or self._running[1].poll() is None:
            return
        (path, process, said), self._running = self._running, None
        step, logged_as = _numbers(path)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
        said.close()
        path.unlink(missing_ok=True)
        self._start()
        if process.returncode:
            log.warning("val_metrics at step %d failed: %s", step, lines[-1] if lines else process.returncode)
            return
        metrics = read_json(self._results(step))["metrics"]
        yield logged_as, {key: m["value"] for key, m in metrics.items() if m["value"] is not None}

    def wait(self) -> Iterator[tuple[int, dict[str, float]]]:
        """All that is left, each when it is finished."""
        while self._running is not None:
            self._running[1].wait()
            yield from self.collect()

    def stop(self) -> None:
        """End the scoring under way; the sets stay."""
        if self._running is not None:
            _, process, said = self._running
            process.terminate()
            process.wait()
            said.close()
        self._running, self._waiting = None, []

    def _results(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}.json"

    def _start(self) -> None:
        if self._running is not None or not self._waiting:
            return
        path = self._waiting.pop(0)
        command = [
            sys.executable, "-m", "ovi_eval.cli", "score", str(path),
            "--reference", str(self.folder / "reference.safetensors"), "--metrics", ",".join(self.metrics),
            "--out", str(self._results(_numbers(path)[0])), "--device", self.device, "--no-intervals",
            "--name", "val_metrics", "--benchmark", self.benchmark,
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHED}
        said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        self._running = path, process, said


def _numbers(path: Path) -> tuple[int, int]:
    """The optimiser step of a saved set, and the step under which its values are logged."""
    named = _NAMED.fullmatch(path.name)
    assert named is not None
    return int(named[1]), int(named[2])
