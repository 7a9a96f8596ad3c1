"""Restarts of a run by what launched it: counted in the run's folder, and limited where they bring no progress."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovi_eval.common.files import write_whole
from ovi_eval.common.plain_data import read_json
from ovi_lab.callbacks.preemption import Preempted
from ovi_lab.errors import UserError
from ovi_lab.runs.processes import is_first_process

FILE = "restarts.json"
_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def started_again() -> bool:
    """Whether torchrun or SLURM has started this run before, so that nobody has looked at it since."""
    return any(int(os.environ.get(name) or 0) > 0 for name in _COUNTS)


@contextmanager
def counted(run_dir: Path, step: int, limit: int) -> Iterator[None]:
    """Context of one start of a run. The first process counts, in `restarts.json`; a start by hand begins anew.

    Args:
        run_dir: the run's folder.
        step: of the checkpoint that it resumes from, 0 for none.
        limit: so many starts in a row may begin at the same step after the run has failed.

    Raises:
        UserError: it was one more.
        SystemExit: that was said before, and torchrun, which knows no error as final, has started the run again.
    """
    if not is_first_process():
        yield
        return
    path = run_dir / FILE
    before: dict[str, Any] = read_json(path) if started_again() and path.is_file() else {}
    if before.get("stopped"):
        raise SystemExit(2)
    stuck = before.get("step") == step and not before.get("preempted")
    now = {
        "step": step,
        "restarts": before.get("restarts", 0) + started_again(),
        "without_progress": before.get("without_progress", 0) + 1 if stuck else 0,
    }
    stopped = now["without_progress"] > limit
    write_whole(path, json.dumps({**now, "stopped": stopped}))
    if stopped:
        raise UserError(
            f"the run in {run_dir} failed {limit + 1} times after step {step} without another checkpoint "
            f"(restarts.without_progress={limit}): look at its log, and start it again by hand with resume=auto"
        )
    try:
        yield
    except Preempted:
        write_whole(path, json.dumps({**now, "preempted": True}))
        raise
