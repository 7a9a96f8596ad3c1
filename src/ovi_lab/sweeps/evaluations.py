"""Jobs of a sweep that differ only in how the trained model is evaluated: trained once, evaluated each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovi_eval.results.find_runs import TRAINED
from ovi_lab.runs.identity import trained_by
from ovi_lab.sweeps.study import SweepJob

_AFTER_TRAINING = ("evaluation", "sampler")


def trained_once(
    jobs: Sequence[SweepJob], arms: Mapping[str, str], folder: Path, shared_before: Collection[str] = ()
) -> tuple[list[SweepJob], list[SweepJob]]:
    """The trainings that several jobs share, and the jobs, which evaluate those.

    Jobs with a training of their own stay as they are. `arms`: by the job's name that of its arm, without the settings
    of its evaluation. `shared_before`: names of trainings of other seeds that were shared, and so are those of these.
    """
    shared: dict[str, list[SweepJob]] = {}
    for job in jobs:
        if job.config["evaluation"]["enabled"] and job.config.get("trained") is None:
            facts = json.dumps(trained_by(job.config), sort_keys=True)
            shared.setdefault(facts, []).append(job)
    trainings: list[SweepJob] = []
    runs: dict[str, Path] = {}
    for members in shared.values():
        first = members[0]
        if len(members) < 2 and arms[first.name] not in shared_before:
            continue
        training = _training(first, arms[first.name], folder)
        trainings.append(training)
        runs |= {job.name: training.run_dir for job in members}
    ready = [
        replace(job, config={**job.config, "trained": str(runs[job.name])}) if job.name in runs else job
        for job in jobs
    ]
    return trainings, ready


def varies_training(key: str) -> bool:
    """Whether another value of a setting is another training."""
    return key.partition(".")[0] not in _AFTER_TRAINING


def _training(job: SweepJob, arm: str, folder: Path) -> SweepJob:
    name = f"{TRAINED}/{arm}/seed_{job.config['seed']}"
    run_dir = folder / name
    # how it is sampled is no part of it, so that the same run serves the next sweep
    config: dict[str, Any] = {key: value for key, value in job.config.items() if key != "sampler"}
    config |= {"evaluation": {"enabled": False}, "arm_name": arm, "run_dir": str(run_dir), "resume": "auto"}
    return SweepJob(name, config, run_dir)
