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
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
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
from ovi_eval.common.collector import no_collector
from ovi_eval.common.plain_data import read_json
from ovi_lab.common.progress import EVALUATION_STAGES, STAGES, fraction
from ovi_lab.errors import UserError
from ovi_lab.sweeps.evaluations import trained_once, varies_training
from ovi_lab.sweeps.further_seeds import open_claims, seeds_to_add, study_of, with_seeds
from ovi_lab.sweeps.order import run_in_order
from ovi_lab.sweeps.study import EndedSweep, SweepJob, note_jobs
from ovi_lab.sweeps.varied import is_own, values_of, varied_values

_SECONDS_BETWEEN_LINES = 15.0
_MARKS = {"done": "[green]done[/]", "skipped": "[dim]already done[/]", "failed": "[red]failed[/]"}


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


def run_member(config: Mapping[str, Any]) -> tuple[str, str]:
    """Run one job; returns its status and message."""
    from ovi_lab.common.progress import FileReporter

    with no_collector():
        from ovi_lab.runs.run import execute

    settings = OmegaConf.create(dict(config))
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
        first_line = "".join(str(error).splitlines()[:1])
        return "failed", f"{type(error).__name__}: {first_line} (see {trace})"
    finally:
        reporter.close()


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
        for job in running:
            try:
                state = read_json(job.run_dir / "progress.json")
            except UserError:
                continue
            share = fraction(state, EVALUATION_STAGES if job.config.get("trained") else STAGES)
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
            gone = f"{100 * done:.0f} % of {len(self.jobs)} runs, {_clock(now - self.started)} gone"
            self.console.print(f"{gone}, {left}" if left else gone)


class PoolLauncher(Launcher):
    """Hydra's launcher over a pool of processes.

    Args:
        workers: processes side by side; 0 takes one per core.
        threads: torch threads in each.
    """

    interrupted = "interrupted"
    """What Ctrl-C says that it did."""
    seconds_between_looks = 0.25

    def __init__(self, workers: int = 0, threads: int = 1) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.threads = threads

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def _job(
        self, overrides: Sequence[str], number: int, varied: Collection[str]
    ) -> tuple[SweepJob, JobReturn, str]:
        """The job, Hydra's record of it, and the name of its arm without the settings of its evaluation."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        own = {
            o.replace("/", "_"): key for o in overrides if (key := o.partition("=")[0].lstrip("+")) in varied
        }
        trained = ",".join((str(config.arm_name), *(o for o, key in own.items() if varies_training(key))))
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
        plain: Any = OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)
        name = str(config.hydra.sweep.subdir)
        returned = JobReturn(list(overrides), cfg=settings, working_dir=str(run_dir), task_name=name)
        return SweepJob(name, plain, run_dir), returned, trained

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run them all; a job that fails does not stop the others. Two jobs of one folder are refused.

        A study whose claims its seeds leave open is given its further seeds then (see `further_seeds`).
        """
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        asked, varied = [list(o) for o in job_overrides], varied_values(job_overrides)
        study_values = values_of(self.config.hydra.sweeper)
        own = is_own(job_overrides, study_values)
        study = study_of(self.config) if own else None
        try:
            seeds = [] if study is None else seeds_to_add(study, asked, study_values.get("seed", ()))
        except UserError as error:
            fail(str(error))
        ended, returned = self._run_all(asked, initial_job_idx, varied, folder)
        if study is not None and seeds and not any(job.status == "failed" for job in ended):
            claims, arms = open_claims(study, EndedSweep(ended, varied), folder)
            names = {job.name: o for job, o in zip(ended, asked, strict=True)}
            if more := with_seeds(ended, names, arms, seeds):
                Console().print(
                    f"these seeds leave claims open (number {', '.join(map(str, claims))}): seeds "
                    f"{', '.join(map(str, seeds))} of {', '.join(arms)} follow",
                    highlight=False,
                )
                further = self._run_all(more, initial_job_idx + len(asked), varied, folder, ended)
                ended, returned = [*ended, *further[0]], [*returned, *further[1]]
        note_jobs(folder, ended, varied, own)
        return returned

    def _run_all(
        self,
        job_overrides: Sequence[Sequence[str]],
        first_number: int,
        varied: Collection[str],
        folder: Path,
        before: Sequence[SweepJob] = (),
    ) -> tuple[list[SweepJob], list[JobReturn]]:
        """Run these jobs, after those that ran `before`; how each has ended, and Hydra's record of it."""
        arms_of = set(varied) - {"arm", "seed"}  # each other value makes an arm of its own
        made = [self._job(o, first_number + i, arms_of) for i, o in enumerate(job_overrides)]
        jobs = [job for job, _, _ in made]
        seen: dict[Path, int] = {}
        for index, job in enumerate(jobs):
            if job.run_dir in seen:
                twins = [" ".join(filter_overrides(job_overrides[i])) for i in (seen[job.run_dir], index)]
                fail(
                    f"two jobs of the sweep would write to {job.run_dir} ({twins[0]} and {twins[1]}): "
                    "give hydra.sweep.subdir something that differs between them"
                )
            seen[job.run_dir] = index
        if (folder / "config.yaml").is_file():
            fail(f"{folder} is the folder of a run: give the sweep a folder of its own, name=…")
        shared = {Path(run).parent.name for job in before if (run := job.config.get("trained"))}
        trainings, jobs = trained_once(jobs, {job.name: arm for job, _, arm in made}, folder, shared)
        if trainings:
            told = f"{len(jobs)} evaluations of {len(trainings)} trained models"
            Console().print(told, highlight=False)
        outcome = run_in_order([*trainings, *jobs], self.run_jobs)
        for job, returned, _ in made:
            # a failed job is reported at the end of the study, after the others have been ranked
            returned.status = JobStatus.COMPLETED
            returned.return_value = outcome[job.name][0]
        ended = [replace(job, status=outcome[job.name][0], message=outcome[job.name][1]) for job in jobs]
        return ended, [returned for _, returned, _ in made]

    def run_jobs(self, jobs: Sequence[SweepJob]) -> dict[str, tuple[str, str]]:
        """Run the jobs and report each as it ends; status and message of each, by name."""
        console = Console()
        handles = self._start(jobs, console)
        screen = _Screen(jobs, console)
        outcome: dict[str, tuple[str, str]] = {}
        # A flag, not an exception: Ctrl-C is not lost wherever the program is.
        interrupted = threading.Event()
        before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
        try:
            with screen.live:
                while len(outcome) < len(jobs) and not interrupted.is_set():
                    for job in jobs:
                        if job.name not in outcome and handles[job.name].done():
                            status, message = outcome[job.name] = self._result(handles[job.name], job)
                            screen.finished(job, status == "skipped")
                            console.print(f"{_MARKS[status]} {job.name} {message}", highlight=False)
                    screen.update([job for job in jobs if job.name not in outcome])
                    interrupted.wait(self.seconds_between_looks)
            if interrupted.is_set():
                self._cancel(handles)
                fail(f"{self.interrupted}; the same command continues with what is missing")
        finally:
            signal.signal(signal.SIGINT, before)
            self._close()
        return outcome

    # ---- what depends on where the jobs run

    def _start(self, jobs: Sequence[SweepJob], console: Console) -> Mapping[str, Any]:
        """Start the jobs; the handle of each by name, whose `done()` says whether it has ended."""
        # read by OpenMP and MKL when the workers import torch
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads)))
        self._pool = ProcessPoolExecutor(
            min(self.workers, len(jobs)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare_worker,
            initargs=(os.getpid(), self.threads),
        )
        return {job.name: self._pool.submit(run_member, job.config) for job in jobs}

    def _result(self, handle: Any, job: SweepJob) -> tuple[str, str]:
        """Status and message of a job that has ended."""
        try:
            return handle.result()
        except SystemExit:
            reason = "stopped by a signal"
        except BrokenProcessPool:
            reason = "its process was killed (out of memory?)"
        return "failed", f"{reason}; {job.run_dir} resumes from its last checkpoint"

    def _cancel(self, handles: Mapping[str, Any]) -> None:
        """End the jobs that have not ended."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()

    def _close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
