"""Runs a sweep's jobs on a SLURM cluster: `hydra/launcher=submitit_slurm`, one SLURM job a member.

Like `local_pool.PoolLauncher`, with submitit's jobs instead of processes of this machine: the same folders, names,
progress and leaderboard at the end. The folder of the sweep must be seen by all nodes. Stopped here by
Ctrl-C, the jobs are cancelled. Where the terminal is lost they continue; once they have ended, the same command runs
what is missing and makes the leaderboard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf
from rich.console import Console

from ovi_eval.common.boundary import fail
from ovi_eval.common.installation import install_hint
from ovi_lab.common.progress import SilentReporter
from ovi_lab.errors import UserError
from ovi_lab.sweeps.local_pool import PoolLauncher, run_member
from ovi_lab.sweeps.study import SweepJob


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
            return run_member(config)
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
    interrupted = "interrupted, and the jobs cancelled"
    seconds_between_looks = 1.0

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

    def _start(self, jobs: Sequence[SweepJob], console: Console) -> Mapping[str, Any]:
        submitted = self._submit(jobs)
        numbers = ", ".join(str(job.job_id) for job in submitted.values())
        console.print(f"submitted to {self.cluster}: {numbers}", highlight=False)
        return submitted

    def _cancel(self, handles: Mapping[str, Any]) -> None:
        for job in handles.values():
            job.cancel()

    def _close(self) -> None:
        """Jobs outlive this process."""

    def _result(self, handle: Any, job: SweepJob) -> tuple[str, str]:
        """That of the first task, which all others follow; SLURM's message where there is none."""
        try:
            results: list[tuple[str, str]] = handle.results()
        except Exception as error:
            log = Path(handle.paths.stderr)
            text = log.read_text(errors="replace") if log.is_file() else ""
            lines = [line for line in text.splitlines() if line.strip()]
            last_line = lines[-1] if lines else " ".join(str(error).split())[:200]
            ended = f"SLURM job {handle.job_id} ended without a result (state {handle.state})"
            return "failed", f"{ended}: {last_line} (see {log})"
        return next((r for r in results if r[0] == "failed"), results[0])

    def _submit(self, jobs: Sequence[SweepJob]) -> Mapping[str, Any]:
        try:
            import submitit
        except ImportError:
            fail(f"hydra/launcher=submitit_… needs submitit: {install_hint('slurm')}")
        folder = Path(self.submitit_folder).absolute()
        try:
            executor = submitit.AutoExecutor(
                folder=folder,
                cluster=self.cluster,
                **{f"{self.cluster}_max_num_timeout": self.max_num_timeout},
            )
            executor.update_parameters(**self.parameters)
            made = executor.map_array(Submitted(self.threads), [dict(job.config) for job in jobs])
        except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
            # submitit's errors on a machine without sbatch, and for an unknown parameter
            fail(f"{self.cluster} does not take the jobs: {' '.join(str(error).split())[:300]}")
        return {job.name: one for job, one in zip(jobs, made, strict=True)}
