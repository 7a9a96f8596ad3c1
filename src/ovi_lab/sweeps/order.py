"""Jobs of a sweep that read the runs of others: those run first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ovi_lab.sweeps.study import SweepJob

Outcomes = dict[str, tuple[str, str]]
"""Status and message by the job's name."""


def run_in_order(jobs: Sequence[SweepJob], run: Callable[[Sequence[SweepJob]], Outcomes]) -> Outcomes:
    """Run the jobs, each after those whose runs it evaluates (`trained`) or begins from (`init_from`).

    Args:
        jobs: of a sweep, by different names.
        run: runs jobs side by side.

    Returns:
        Of each job; one that needs a run that has failed is not run, and has failed too.
    """
    needed = {job.name: needed_by(job, jobs) for job in jobs}
    outcome: Outcomes = {}
    while left := [job for job in jobs if job.name not in outcome]:
        lost = {
            job.name: (other, outcome[other][1])
            for job in left
            for other in needed[job.name]
            if outcome.get(other, ("",))[0] == "failed"
        }
        if lost:
            outcome |= {
                name: ("failed", f"{other}, which it needs, has failed: {message}")
                for name, (other, message) in lost.items()
            }
            continue
        # runs that need each other are left to say themselves what they lack
        ready = [job for job in left if needed[job.name] <= outcome.keys()] or left
        outcome |= run(ready)
    return outcome


def needed_by(job: SweepJob, jobs: Sequence[SweepJob]) -> set[str]:
    """The names of the other jobs in whose folders lies what this one reads."""
    sources: Mapping[str, str | None] = job.config.get("init_from") or {}
    read = [Path(source).absolute() for source in (job.config.get("trained"), *sources.values()) if source]
    return {
        other.name
        for other in jobs
        if other is not job and any(path.is_relative_to(other.run_dir) for path in read)
    }
