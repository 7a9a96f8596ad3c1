"""The process that rehearses: `python -m ovi_lab.rehearsal.child OUT PART OVERRIDE…`; starts without torch.

It writes what happened to OUT as JSON. Bad input is one line and exit code 2.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from ovi_eval.common.boundary import command
from ovi_eval.common.files import write_whole
from ovi_lab.rehearsal import library

_CLIP = ("video=", "audio=")
"""Words that give the shape of a clip of training, among the overrides."""


@command("error")
def main() -> int:
    """One part of a rehearsal, or of its measurement on a GPU."""
    out, part, gpus, *overrides = sys.argv[1:]
    warnings.filterwarnings("ignore")
    _write(
        out, _measured(part, overrides) if part.startswith("measured") else _rehearsed(part, gpus, overrides)
    )
    return 0


def _write(out: str, found: dict[str, Any]) -> None:
    write_whole(Path(out), json.dumps(found, indent=1))


def _rehearsed(part: str, gpus: str, overrides: list[str]) -> dict[str, Any]:
    library.load(library.built())
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
    if part == "samples":
        return _samples(overrides, cluster, watch)
    if part == "inference":
        from ovi_lab.rehearsal.inference import rehearse_inference

        return rehearse_inference(_composed(overrides), watch)
    return _training(overrides, cluster, watch)


def _measured(part: str, overrides: list[str]) -> dict[str, Any]:
    """`measured inference`, or `measured CHOICE` of activation checkpointing."""
    from ovi_lab.rehearsal.gpu import MeasuredGpu
    from ovi_lab.rehearsal.measure import measure_inference, measure_training

    _quiet()
    gpu = MeasuredGpu()
    what = part.partition(" ")[2]
    config = _composed(overrides)
    if what == "inference":
        return measure_inference(config, gpu)
    return measure_training(config, what, gpu, _clip(overrides))


def _composed(overrides: list[str]) -> Any:
    from ovi_lab.common.command_line import composed
    from ovi_lab.common.paths import config_dir
    from ovi_lab.runs.arguments import hydra_arguments

    rest = [word for word in overrides if not word.startswith(_CLIP)]
    return composed(hydra_arguments(rest), config_dir(), "train")


def _clip(overrides: list[str]) -> Any:
    """The shape of clips that was typed, or None."""
    from ovi_lab.planning.clip_shape import ClipShape

    return ClipShape.typed(dict(word.split("=", 1) for word in overrides if word.startswith(_CLIP)))


def _quiet() -> None:
    import logging

    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _training(overrides: list[str], cluster: Any, watch: Any) -> dict[str, Any]:
    from ovi_lab.planning.job import TrainingJob
    from ovi_lab.planning.training_planner import TrainingPlanner
    from ovi_lab.rehearsal.stopped import stopped_or
    from ovi_lab.rehearsal.training import rehearse_training

    _quiet()
    config, clip = _composed(overrides), _clip(overrides)
    job = TrainingJob(config, clip)
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


def _samples(overrides: list[str], cluster: Any, watch: Any) -> dict[str, Any]:
    """Training that samples after its last step, with clips so small that they are written at once."""
    from ovi_lab.planning.clip_shape import ClipShape
    from ovi_lab.planning.job import TrainingJob
    from ovi_lab.rehearsal.stopped import stopped_or
    from ovi_lab.rehearsal.training import rehearse_training

    _quiet()
    config = _composed([*overrides, "text=learned", "task.text_encoder=${text}"])
    job = TrainingJob(config, ClipShape((3, 4, 4), 16))
    return stopped_or(lambda: rehearse_training(config, cluster, job, watch, 1, samples=True).plain())


if __name__ == "__main__":
    raise SystemExit(main())
