"""Sources worked through by a Ray cluster, with Ray Data: the same workers as on one machine, as actors."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovi_eval.common.installation import install_hint
from ovi_eval.common.shown import shown
from ovi_lab.data.build.engine import Work, Worker
from ovi_lab.data.build.items import SourceFile
from ovi_lab.errors import UserError


class RayWorker:
    """A worker as Ray Data calls it, with a source as a row."""

    def __init__(self, work: Work) -> None:
        if not work.folder.is_dir():
            raise UserError(
                f"{shown(work.folder)} is not there on {socket.gethostname()}: videos and shards must lie at the same "
                "place on every machine of the cluster, as on a shared file system"
            )
        self.worker = Worker(work)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        given, remote, stamped = json.loads(row["rest"])
        self.worker(SourceFile(Path(row["file"]), row["name"], row["base"], given, remote, tuple(stamped)))
        return {"name": row["name"]}


def run_on_ray(sources: Sequence[SourceFile], work: Work, workers: int | None) -> Iterator[str]:
    """Names of the sources as they are finished by the cluster of RAY_ADDRESS, or by one started on this machine.

    What is written goes through the work folder, which all machines share.

    Args:
        workers: actors of one CPU each; None: as many as the cluster has CPUs.

    Raises:
        UserError: Ray is not installed or its cluster not reached, or a worker failed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"engine ray needs Ray: {install_hint('ray')}, or use --engine processes")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # its own notices about actors, which say nothing to the user of a build
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    from ray import data
    from ray.exceptions import RayError

    own = not ray.is_initialized()
    if own:
        _connect(ray)
    try:
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        count = min(workers or max(1, int(ray.cluster_resources().get("CPU", 1))), len(sources))
        # actors have working folders of their own
        rows = [
            {
                "file": str(s.file.absolute()),
                "name": s.name,
                "base": s.base,
                "rest": json.dumps([dict(s.given), s.remote, s.stamped]),
            }
            for s in sources
        ]
        worker: Any = RayWorker  # a class: Ray makes one for each actor
        finished = data.from_items(rows, override_num_blocks=min(len(rows), 16 * count)).map(
            worker,
            fn_constructor_args=(replace(work, folder=work.folder.absolute()),),
            compute=data.ActorPoolStrategy(size=count),
            num_cpus=1,
        )
        try:
            for row in finished.iter_rows():
                yield row["name"]
        except RayError as error:
            raise UserError(_told(error)) from error
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        there = f"the Ray cluster of RAY_ADDRESS={address}" if address else "Ray on this machine"
        raise UserError(f"{there} does not answer ({shown(str(error).splitlines()[0], 200)})") from error


def _told(error: BaseException) -> str:
    """What made the cluster stop, in one line."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, UserError):
        found = getattr(found, "cause", None) or found.__cause__
    last = [line for line in str(error).splitlines() if line.strip()]
    reason = str(found) if found is not None else shown(last[-1] if last else type(error).__name__, 300)
    return f"a worker on Ray failed: {reason}; what is finished is kept: the same command goes on"
