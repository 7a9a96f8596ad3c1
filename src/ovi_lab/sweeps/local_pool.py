"""Runs a sweep's jobs side by side on this machine: `hydra/launcher=local_pool`.

One thread a process and one process a core is the quickest layout for small models; the processes are kept between
jobs, so that the libraries are imported once. Each job lives in its own folder, and one that is done is not done again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ovi_eval.common.boundary import fail
from ovi_eval.common.plain_data import read_json
from ovi_lab.common.progress import fraction
from ovi_lab.errors import UserError
from ovi_lab.sweeps.study import EndedJob, note_jobs

_SECONDS_BETWEEN_LINES = 15.0


@dataclass(frozen=True)
class SweepJob:
    """One member of a sweep: its name on the screen, its resolved configuration and its folder."""

    name: str
    config: dict[str, Any]
    run_dir: Path


def _follow_parent(parent: int) -> None:
    """End this process when its parent ends, also by a kill."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _prepare_worker(parent: int, threads: int) -> None:
    # Ctrl-C reaches the whole group; the parent alone decides what follows
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def _work(config: dict[str, Any]) -> tuple[str, str]:
    """Run one job; returns its status and message."""
    from ovi_lab.common.progress import FileReporter
    from ovi_lab.runs.run import execute

    settings = OmegaConf.create(config)
    run_dir = Path(settings.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    reporter = FileReporter(run_dir / "progress.json")
    try:
        return execute(settings, reporter), ""
    except UserError as error:
        return "failed", str(error)
    except Exception as error:
        # the other jobs continue; the full traceback is kept
        trace = run_dir / "traceback.txt"
        trace.write_text(traceback.format_exc())
        return (
            "failed",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} (see {trace})",
        )
    finally:
        reporter.close()


def _varied(job_overrides: Sequence[Sequence[str]]) -> set[str]:
    """Keys whose values differ between the jobs of a sweep, besides arm and seed: each value is an arm of its own."""
    values: dict[str, set[str]] = {}
    for overrides in job_overrides:
        for override in overrides:
            key, _, value = override.partition("=")
            values.setdefault(key.lstrip("+"), set()).add(value)
    return {key for key, seen in values.items() if len(seen) > 1} - {"arm", "seed"}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes:d}:{seconds:02d}"


class _Screen:
    """The sweep's progress: one bar for all, one for each running job, and the time left."""

    def __init__(self, jobs: Sequence[SweepJob], console: Console) -> None:
        self.jobs, self.console = jobs, console
        self.overall = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>5.1f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self.each = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        self.total = self.overall.add_task(f"{len(jobs)} runs", total=1.0, left="")
        self.tasks: dict[str, Any] = {}
        self.shares = {job.name: 0.0 for job in jobs}
        self.free: set[str] = set()
        self.started = self.last_line = time.monotonic()
        self.live = Live(Group(self.overall, self.each, Text("")), console=console, refresh_per_second=4)

    def update(self, running: Sequence[SweepJob]) -> None:
        """Read the jobs' progress files."""
        for job in running:
            try:
                state = read_json(job.run_dir / "progress.json")
            except UserError:
                continue
            share = fraction(state)
            if not self.shares[job.name] and share > 0.1:
                # it resumes from a checkpoint: its earlier progress says nothing of the speed now
                self.free.add(job.name)
            self.shares[job.name] = share
            if job.name not in self.tasks:
                self.tasks[job.name] = self.each.add_task(f"{job.name:<34}", total=1.0, state="")
            text = f"{state['stage']} {state['done']}/{state['total']} {state['note']}"
            self.each.update(self.tasks[job.name], completed=share, state=text)
        self._estimate()

    def finished(self, job: SweepJob, skipped: bool) -> None:
        """Remove a job that has ended."""
        self.shares[job.name] = 1.0
        if skipped:
            self.free.add(job.name)
        if job.name in self.tasks:
            self.each.remove_task(self.tasks.pop(job.name))
        self._estimate()

    def _estimate(self) -> None:
        done = sum(self.shares.values()) / len(self.jobs)
        earned = sum(s for n, s in self.shares.items() if n not in self.free)
        ahead = sum(1 - s for s in self.shares.values())
        left = ""
        if earned > 0.05:
            left = f"left {_clock((time.monotonic() - self.started) / earned * ahead)}"
        self.overall.update(self.total, completed=done, left=left)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last_line >= _SECONDS_BETWEEN_LINES:
            # a log file shows no bars
            self.last_line = now
            self.console.print(
                f"{100 * done:.0f} % of {len(self.jobs)} runs, {_clock(now - self.started)} gone, {left}"
            )


class PoolLauncher(Launcher):
    """Hydra's launcher over a pool of processes.

    Args:
        workers: processes side by side; 0 takes one per core.
        threads: torch threads in each.
    """

    def __init__(self, workers: int = 0, threads: int = 1) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.threads = threads

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's launcher interface."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def _job(
        self, overrides: Sequence[str], number: int, varied: Collection[str]
    ) -> tuple[SweepJob, JobReturn]:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        own = [o.replace("/", "_") for o in overrides if o.partition("=")[0].lstrip("+") in varied]
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
            if own:
                config.arm_name = ",".join((str(config.arm_name), *own))
        HydraConfig.instance().set_config(config)
        run_dir = Path(str(config.hydra.sweep.dir)).absolute() / str(config.hydra.sweep.subdir)
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = str(run_dir)
        HydraConfig.instance().set_config(config)
        settings = OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"])
        settings._set_parent(None)
        plain = OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)
        assert isinstance(plain, dict)
        name = str(config.hydra.sweep.subdir)
        returned = JobReturn(
            overrides=list(overrides), cfg=settings, working_dir=str(run_dir), task_name=name
        )
        return SweepJob(name, {str(k): v for k, v in plain.items()}, run_dir), returned

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run them all; a job that fails does not stop the others. Two jobs of one folder are refused."""
        varied = _varied(job_overrides)
        pairs = [self._job(o, initial_job_idx + i, varied) for i, o in enumerate(job_overrides)]
        jobs = [job for job, _ in pairs]
        seen: dict[Path, int] = {}
        for index, job in enumerate(jobs):
            if job.run_dir in seen:
                twins = [" ".join(filter_overrides(job_overrides[i])) for i in (seen[job.run_dir], index)]
                fail(
                    UserError(
                        f"two jobs of the sweep would write to {job.run_dir} ({twins[0]} and {twins[1]}): "
                        "give hydra.sweep.subdir something that differs between them"
                    )
                )
            seen[job.run_dir] = index
        sweep_dir = Path(str(self.config.hydra.sweep.dir)).absolute()
        outcome = self.run_jobs(jobs)
        for job, returned in pairs:
            # a failed job is reported at the end of the study, after the others have been ranked
            returned.status = JobStatus.COMPLETED
            returned.return_value = outcome[job.name][0]
        note_jobs(
            sweep_dir, [EndedJob(job.name, job.config, job.run_dir, *outcome[job.name]) for job in jobs]
        )
        return [returned for _, returned in pairs]

    def run_jobs(self, jobs: Sequence[SweepJob]) -> dict[str, tuple[str, str]]:
        """Run the jobs and report each as it ends; status and message of each, by name."""
        console = Console()
        outcome: dict[str, tuple[str, str]] = {}
        screen = _Screen(jobs, console)
        # read by OpenMP and MKL when the workers import torch
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads)))
        pool = ProcessPoolExecutor(
            min(self.workers, len(jobs)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare_worker,
            initargs=(os.getpid(), self.threads),
        )
        waiting: dict[Future[tuple[str, str]], SweepJob] = {
            pool.submit(_work, job.config): job for job in jobs
        }
        # A flag, not an exception: Ctrl-C is not lost wherever the program is.
        interrupted = threading.Event()
        before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
        try:
            with screen.live:
                while waiting and not interrupted.is_set():
                    done, _ = wait(waiting, timeout=0.25, return_when=FIRST_COMPLETED)
                    for future in done:
                        job = waiting.pop(future)
                        outcome[job.name] = self._result(future, job)
                        screen.finished(job, outcome[job.name][0] == "skipped")
                        self._tell(console, job, *outcome[job.name])
                    screen.update(list(waiting.values()))
            if interrupted.is_set():
                self._kill(pool)
                fail(UserError("interrupted; the same command continues with what is missing"))
        finally:
            signal.signal(signal.SIGINT, before)
            pool.shutdown(wait=False, cancel_futures=True)
        return outcome

    @staticmethod
    def _result(future: Future[tuple[str, str]], job: SweepJob) -> tuple[str, str]:
        try:
            return future.result()
        except SystemExit:
            return "failed", f"stopped by a signal; {job.run_dir} resumes from its last checkpoint"
        except BrokenProcessPool:
            return (
                "failed",
                f"its process was killed (out of memory?); {job.run_dir} resumes from its last checkpoint",
            )

    @staticmethod
    def _tell(console: Console, job: SweepJob, status: str, message: str) -> None:
        mark = {"done": "[green]done[/]", "skipped": "[dim]already done[/]", "failed": "[red]failed[/]"}[
            status
        ]
        console.print(f"{mark} {job.name} {message}", highlight=False)

    @staticmethod
    def _kill(pool: ProcessPoolExecutor) -> None:
        for process in list((pool._processes or {}).values()):
            process.kill()
