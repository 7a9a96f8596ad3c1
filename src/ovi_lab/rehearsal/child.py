"""The process that rehearses: `python -m ovi_lab.rehearsal.child OUT PART OVERRIDE…`; starts without torch.

It writes what happened to OUT as JSON. Bad input is one line and exit code 2.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovi_eval.common.boundary import command
from ovi_eval.common.files import write_whole
from ovi_lab.rehearsal import library


@command("error")
def main() -> int:
    """One part of a rehearsal."""
    library.load(library.built())
    out, part, gpus, *overrides = sys.argv[1:]
    warnings.filterwarnings("ignore")
    from ovi_lab.planning.cluster import Cluster
    from ovi_lab.rehearsal import stand_in
    from ovi_lab.rehearsal.record import Record
    from ovi_lab.rehearsal.watch import Watch
    from ovi_lab.rehearsal.world import nodes_of

    cluster = Cluster.parse(gpus)
    watch = Watch(Record())
    # memory without end: what does not fit is to be measured too
    machine = stand_in.Machine(nodes_of(cluster.count)[1], 2**50)
    stand_in.install(machine, watch.wait, lambda: (watch.live.now, watch.live.peak))
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "training": lambda: _training(overrides, cluster, watch)
    }
    write_whole(Path(out), json.dumps(parts[part](), indent=1))
    return 0


def _training(overrides: list[str], cluster: Any, watch: Any) -> dict[str, Any]:
    import logging

    from ovi_lab.common.command_line import composed
    from ovi_lab.common.paths import config_dir
    from ovi_lab.planning.job import TrainingJob
    from ovi_lab.planning.training_planner import TrainingPlanner
    from ovi_lab.rehearsal.training import rehearse_training
    from ovi_lab.runs.arguments import hydra_arguments

    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    config = composed(hydra_arguments(overrides), config_dir(), "train")
    job = TrainingJob(config)
    planner = TrainingPlanner(job)
    predicted = planner.memory(planner.requested(cluster.count))
    plan = {
        "backward": sum(predicted.backward.values()),
        "step": sum(predicted.step.values()),
        "backward_parts": dict(predicted.backward),
        "step_parts": dict(predicted.step),
    }
    found: dict[str, Any] = {"clip": str(job.clip), "micro": job.micro, "plan": plan}
    return found | stopped_or(lambda: rehearse_training(config, cluster, job, watch).plain())


def stopped_or(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `run` finds, or where it stopped: an operation that a GPU refuses as well, or that shapes cannot tell."""
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorDeviceMismatchError,
    )

    try:
        return run()
    except (
        FakeTensorDeviceMismatchError,
        DynamicOutputShapeException,
        DataDependentOutputException,
    ) as error:
        source = str(Path(__file__).resolve().parents[1]) + "/"
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(source)]
        frames = [f for f in frames if "/rehearsal/" not in f.filename]
        place = f" at {frames[-1].filename.removeprefix(source)}:{frames[-1].lineno}" if frames else ""
        return {"failed": f"{str(error).splitlines()[0]}{place}"}


if __name__ == "__main__":
    raise SystemExit(main())
