"""Progress of one run, on the screen or in a file that the process that started it reads."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from ovi_eval.common.files import write_whole

Item = TypeVar("Item")
# Shares of a run's time by stage, measured on the ball world; they only smooth the estimate of the time left.
STAGES = {"data": 0.02, "training": 0.80, "validation": 0.04, "sampling": 0.12, "scoring": 0.02}

EVALUATION_STAGES = {"data": 0.05, "sampling": 0.75, "scoring": 0.2}
"""The same of the evaluation of a run that is trained already."""


class Reporter(Protocol):
    """The interface of progress reports."""

    def at(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Reports that `done` of `total` steps of a stage are done."""

    def close(self) -> None:
        """Ends the reports."""


class SilentReporter:
    """A reporter without output, for ranks other than the first and for tests."""

    def at(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class _Time(ProgressColumn):
    """`0:00:12, 0:01:40 left`; of a bar that has ended, `took 0:01:52`."""

    def render(self, task: Task) -> Text:
        elapsed = _clock(task.finished_time if task.finished else task.elapsed)
        if task.finished:
            return Text(f"took {elapsed}")
        return Text(f"{elapsed}, {_clock(task.time_remaining)} left")


def _clock(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=max(0, round(seconds))))


class ConsoleReporter:
    """Progress bars with the time left, for a run that owns the terminal."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            _Time(),
            TextColumn("{task.fields[note]}", table_column=Column(max_width=20, no_wrap=True)),  # 80 columns
            console=console,
        )
        self.tasks: dict[str, Any] = {}
        self.progress.start()

    def at(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Draw the bar."""
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total, note=note)
        self.progress.update(self.tasks[stage], completed=done, total=total, note=note)

    def close(self) -> None:
        """Leave the bars as they are."""
        self.progress.stop()


class LineReporter:
    """Progress as lines, for output that is kept in a file: at the ends of a stage and twice a minute between.

    A stage that falls back to fewer steps begins anew.

    Args:
        console: to print on.
        seconds: between lines.
        quick: seconds that a stage must last to be worth a line.
    """

    def __init__(self, console: Console, seconds: float = 30.0, quick: float = 0.0) -> None:
        self.console, self.seconds, self.quick = console, seconds, quick
        self._stage, self._began, self._printed, self._done = "", 0.0, 0.0, 0

    def at(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Print a line where one is due."""
        now = time.monotonic()
        anew, self._done = done < self._done, done
        if stage != self._stage or anew:
            self._stage, self._began = stage, now
            self._printed = now - self.seconds + self.quick
            if self.quick:
                return
        elif now - self._began < self.quick or (done < total and now - self._printed < self.seconds):
            return
        self._printed = now
        elapsed = now - self._began
        left = f", {_clock(elapsed * (total - done) / done)} left" if 0 < done < total else ""
        line = f"{stage} {done}/{total} {_clock(elapsed)}{left}"
        self.console.print(f"{line} {note}".rstrip(), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Does nothing: each line is whole."""


def reporter_on(console: Console) -> Reporter:
    """Bars on a terminal or in a notebook, lines elsewhere."""
    return ConsoleReporter(console) if console.is_terminal or console.is_jupyter else LineReporter(console)


class FileReporter:
    """Writes `progress.json` at most twice a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = 0.0

    def at(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Write the file, atomically."""
        now = time.monotonic()
        if now - self._written < 0.5 and 0 < done < total:
            return
        self._written = now
        write_whole(self.path, json.dumps({"stage": stage, "done": done, "total": total, "note": note}))

    def close(self) -> None:
        """Remove the file: the run has ended."""
        self.path.unlink(missing_ok=True)


def fraction(state: dict[str, Any], stages: Mapping[str, float] = STAGES) -> float:
    """The finished share of a run, from a file of `FileReporter`; `stages` as STAGES."""
    behind = 0.0
    for stage, share in stages.items():
        if stage == state["stage"]:
            return behind + share * state["done"] / max(1, state["total"])
        behind += share
    return behind


_told: ContextVar[tuple[Reporter, str] | None] = ContextVar("told", default=None)


@contextmanager
def told(reporter: Reporter, stage: str) -> Iterator[None]:
    """Within the block, `progress` reports to a reporter, as a stage of its run, whether shown or not."""
    token = _told.set((reporter, stage))
    try:
        yield
    finally:
        _told.reset(token)


def progress(items: Iterable[Item], description: str, total: int, shown: bool = True) -> Iterator[Item]:
    """Yields `items` with a progress bar and the time left; where there is no terminal with lines (`LineReporter`),
    if they take more than two seconds.

    Within `told` that reporter gets the progress instead.
    """
    run = _told.get()
    if run is not None:
        reporter, stage = run
        yield from _counted(items, total, reporter, stage, description)
        return
    if not shown:
        yield from items
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from _counted(items, total, LineReporter(console, quick=2.0), description)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)


def _counted(
    items: Iterable[Item], total: int, reporter: Reporter, stage: str, note: str = ""
) -> Iterator[Item]:
    reporter.at(stage, 0, total, note)
    for done, item in enumerate(items, 1):
        yield item
        reporter.at(stage, done, total, note)
