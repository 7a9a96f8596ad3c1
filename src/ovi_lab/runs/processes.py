"""Rank before the process group exists, agreement of all ranks at the start, and errors of a lost process."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

from ovi_lab.errors import UserError
from ovi_lab.strategies.process_groups import everyone, started

_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|peer|timed? ?out|socket|abort|unhandled system error|"
    r"failed to (recv|send)|broken pipe",
    re.I,
)
_SECONDS_APART = 30.0


class LostProcessError(UserError):
    """Another process of the run is gone. Its exit code, EX_TEMPFAIL, tells the scripts that a restart may help."""

    exit_code = 75


def is_first_process() -> bool:
    """By what torchrun, SLURM or Lightning's own launcher put into the environment."""
    names = ("RANK",) if os.environ.get("RANK", "").isdigit() else ("SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
    # processes that Lightning starts within a task of SLURM inherit that task's number
    return all(os.environ.get(name, "0") in ("0", "") for name in names)


def died(error: RuntimeError) -> str | None:
    """What to say where an error means that another process is gone; None where it means something else."""
    text = str(error).strip()
    found = _LOST.search(text)
    of_torch = isinstance(error, distributed.DistError) or re.search("gloo|nccl", text, re.I)
    if not started() or found is None or not of_torch:
        return None
    reason = text[found.start() :].splitlines()[0]
    return f"another process of this run died or cannot be reached ({reason[:80].strip(' .')})"


class RankAgreement(Callback):
    """At the start, all processes compare what must be the same on all of them.

    Args:
        config_hash: of the run's configuration.
        data: the data module, whose `fingerprint()` covers its shards and settings; None: there is none.
    """

    def __init__(self, config_hash: str, data: Any) -> None:
        self.config_hash, self.data = config_hash, data

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises UserError on every process, which names the first one that differs and in what."""
        if trainer.world_size == 1:
            return
        fingerprint = "" if self.data is None else self.data.fingerprint()
        trainer.strategy.barrier()
        own = {
            "configuration": self.config_hash,
            "list of shards or data settings": fingerprint,
            "clock": time.time(),
        }
        by_rank = everyone(own)
        for what, first in by_rank[0].items():
            for rank, facts in enumerate(by_rank):
                value = facts[what]
                if abs(value - first) > _SECONDS_APART if what == "clock" else value != first:
                    shown = f"{value - first:+.0f} s" if what == "clock" else f"{value} against {first}"
                    raise UserError(
                        f"process {rank} has another {what} than process 0 ({shown}): "
                        "start all processes with the same files and command, and synchronised clocks"
                    )
