"""Runs a sweep's jobs on a SLURM cluster: `hydra/launcher=submitit_slurm`, one SLURM job a member.

Like `local_pool.PoolLauncher`, with submitit's jobs instead of processes of this machine: the same folders, names,
progress and leaderboard at the end. The folder of the sweep must be seen by all nodes. Stopped here by
Ctrl-C, the jobs are cancelled. Where the terminal is lost they continue; once they have ended, the same command runs
what is missing and makes the leaderboard.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf
from rich.console import Console

from ovi_eval.common.boundary import fail
from ovi_lab.common.progress import SilentReporter
from ovi_lab.errors import UserError
from ovi_lab.sweeps.local_pool import PoolLauncher, SweepJob, _Screen, _work

_SECONDS_BETWEEN_LOOKS = 1.0


class Submitted:
    """The callable that submitit runs on a node, in each of a job's tasks; a requeued job resumes."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __call__(self, config: dict[str, Any]) -> tuple[str, str]:
        """Run one member of the sweep; its status and message."""
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)
        from ovi_lab.runs.processes import is_first_process

        if is_first_process():
            return _work(config)
        # the first task alone writes progress and errors
        from ovi_lab.runs.run import execute

        try:
            return execute(OmegaConf.create(config), SilentReporter()), ""
        except UserError as error:
            return "failed", str(error)

    def checkpoint(self, config: dict[str, Any]) -> Any:
        """The job that submitit queues again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, {**config, "resume": "auto"})


_GENERAL = (
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "stderr_to_stdout",
)
"""Parameters that submitit takes for every kind of cluster; others are those of one."""


class SubmititLauncher(PoolLauncher):
    """Hydra's launcher over submitit, with the parameters of the package hydra-submitit-launcher.

    Args:
        submitit_folder: folder of submitit's own files and the jobs' output.
        max_num_timeout: how often a job that ran out of time is queued again.
        name: name of the jobs.
        parameters: submitit's, without the cluster's name before them: `timeout_min`, `gpus_per_node`, `partition` …;
            those that are null are left out.
    """

    cluster: ClassVar[str] = "slurm"

    def __init__(
        self, submitit_folder: str, max_num_timeout: int = 100, name: str = "ovi", **parameters: Any
    ) -> None:
        threads = int(parameters.get("cpus_per_task") or 0)
        super().__init__(workers=1, threads=threads)
        self.submitit_folder, self.max_num_timeout = submitit_folder, max_num_timeout
        self.parameters = {"name": name} | {
            key if key in _GENERAL else f"{self.cluster}_{key}": value
            for key, value in parameters.items()
            if value is not None
        }

    def run_jobs(self, jobs: Sequence[SweepJob]) -> dict[str, tuple[str, str]]:
        """Run the jobs and report each as it ends; status and message of each, by name."""
        submitted = self._submit(jobs)
        console = Console()
        screen = _Screen(jobs, console)
        numbers = ", ".join(str(job.job_id) for job in submitted.values())
        console.print(f"submitted to {self.cluster}: {numbers}", highlight=False)
        outcome: dict[str, tuple[str, str]] = {}
        interrupted = threading.Event()
        before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
        try:
            with screen.live:
                while len(outcome) < len(jobs) and not interrupted.is_set():
                    for job in jobs:
                        if job.name not in outcome and submitted[job.name].done():
                            outcome[job.name] = _outcome(submitted[job.name])
                            screen.finished(job, outcome[job.name][0] == "skipped")
                            self._tell(console, job, *outcome[job.name])
                    screen.update([job for job in jobs if job.name not in outcome])
                    interrupted.wait(_SECONDS_BETWEEN_LOOKS)
            if interrupted.is_set():
                for job in submitted.values():
                    job.cancel()
                fail(
                    UserError(
                        "interrupted, and the jobs cancelled; the same command continues with what is missing"
                    )
                )
        finally:
            signal.signal(signal.SIGINT, before)
        return outcome

    def _submit(self, jobs: Sequence[SweepJob]) -> Mapping[str, Any]:
        try:
            import submitit
        except ImportError:
            fail(UserError("hydra/launcher=submitit_… needs submitit: pip install 'ovi-lab[slurm]'"))
        folder = Path(self.submitit_folder).absolute()
        try:
            executor = submitit.AutoExecutor(
                folder=folder,
                cluster=self.cluster,
                **{f"{self.cluster}_max_num_timeout": self.max_num_timeout},
            )
            executor.update_parameters(**self.parameters)
            made = executor.map_array(Submitted(self.threads), [job.config for job in jobs])
        except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
            # submitit's errors on a machine without sbatch, and for an unknown parameter
            fail(UserError(f"{self.cluster} does not take the jobs: {' '.join(str(error).split())[:300]}"))
        return {job.name: one for job, one in zip(jobs, made, strict=True)}


def _outcome(job: Any) -> tuple[str, str]:
    """Status and message of the first task, which all others follow; SLURM's message where there is none."""
    try:
        results: list[tuple[str, str]] = job.results()
    except Exception as error:
        log = job.paths.stderr
        lines = [line for line in _text(log).splitlines() if line.strip()]
        last_line = lines[-1] if lines else " ".join(str(error).split())[:200]
        return (
            "failed",
            f"SLURM job {job.job_id} ended without a result (state {job.state}): {last_line} (see {log})",
        )
    return next((r for r in results if r[0] == "failed"), results[0])


def _text(path: Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
