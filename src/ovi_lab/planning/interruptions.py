"""What interruptions cost a run, by plan: a checkpoint's size and time, the work between two, the lead time of a stop.

A model like that of the step time, with assumptions of its own (`ASSUMPTION`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from ovi_lab.common.sizes import gib
from ovi_lab.planning.strategy import Types
from ovi_lab.planning.time import StepTime
from ovi_lab.planning.training_planner import Choice, TrainingPlanner

STORAGE = 5.0
"""GB/s that the file system takes from all processes together."""
PROCESS = 0.5
"""GB/s of a process: copied from the device, written, flushed to the disk and hashed."""
MICRO_BATCHES = 3
"""From a signal to a stop at most: the one under way, and the two within which all processes agree (`JointAction`)."""
LEAVING = 30
"""Seconds for loggers, SLURM's answer and the end of the processes."""
SCRIPTS = 300
"""Seconds of lead in scripts/train_slurm.sbatch and conf/hydra/launcher/submitit_slurm.yaml."""
ASSUMPTION = (
    f"Checkpoints at {PROCESS:g} GB/s a process that writes, and at most {{storage:g}} GB/s in all (storage=…); "
    f"{LEAVING} s to leave; a validation or sampling under way is waited for besides."
)


@dataclass(frozen=True)
class Interruptions:
    """Seconds and bytes."""

    micro_batch: float
    size: int
    """Of a checkpoint."""
    save: float
    between: float | None
    """Work that is lost at most where the run is killed; None: there are no checkpoints but the last."""
    lead: int
    """From a signal to stop until all processes have saved and left, rounded up to tens."""

    @classmethod
    def of(
        cls, planner: TrainingPlanner, choice: Choice, time: StepTime, storage: float = STORAGE
    ) -> Interruptions:
        """Those of a run under a choice, whose step takes `time`; `storage` in GB/s."""
        accumulate = planner.batch(choice).accumulate
        micro_batch = (time.total - time.optimiser) / accumulate
        size = checkpoint_bytes(planner, choice)
        writers = choice.gpus if choice.sharding.stage else 1
        save = size / 1e9 / min(storage, PROCESS * writers)
        # one may be under way when the signal comes; where a step ends before the stop, that is saved too
        saves = 1 if accumulate > MICRO_BATCHES else 2
        lead = MICRO_BATCHES * micro_batch + time.optimiser + saves * save + LEAVING
        settings: Any = OmegaConf.to_container(planner.job.config.checkpoint, resolve=True)
        return cls(micro_batch, size, save, _between(settings, time.total), 10 * math.ceil(lead / 10))

    def rows(self) -> Sequence[tuple[str, str]]:
        """For the table of times."""
        lost = "all of it" if self.between is None else f"{self.between / 60:,.0f} min"
        return (
            ("a checkpoint", gib(self.size)),
            ("  written in", f"{self.save:,.0f} s"),
            ("work that a kill loses at most", lost),
            ("lead time of a signal to stop", f"{self.lead:,} s"),
        )

    def advice(self) -> str:
        """The lead time as it is typed."""
        enough = self.lead <= SCRIPTS
        said = f"The scripts' lead time of {SCRIPTS} s is " + ("enough" if enough else "too short")
        return (
            f"{said}; by hand: sbatch --signal=USR1@{self.lead} scripts/train_slurm.sbatch …, in a sweep "
            f"hydra.launcher.signal_delay_s={self.lead}."
        )


def checkpoint_bytes(planner: TrainingPlanner, choice: Choice) -> int:
    """Bytes of a checkpoint: weights as the optimiser steps them, their averages, the optimiser's state."""
    counts, types = planner.job.counts, Types.of(planner.job.precision, choice.sharding)
    frozen = min(types.weights.itemsize, counts.frozen_size) * (counts.total - counts.trained)
    averages = 4 * counts.trained if planner.job.averaged else 0
    return frozen + 4 * counts.trained + averages + planner.optimiser_state(choice)


def _between(checkpoint: Mapping[str, Any], step: float) -> float | None:
    """Seconds of work between two checkpoints at most; the clock's is of the last whole step."""
    steps, minutes = checkpoint.get("every_n_steps"), checkpoint.get("every_minutes")
    found = [steps * step] if steps else []
    found += [60 * minutes + step] if minutes else []
    return min(found, default=None)
