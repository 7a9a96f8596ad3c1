"""Whole runs of the ball world, one after the other, in the processes of one launch.

    python tests/helpers/several.py RUNS.json --rank 0 --world 2 --port 29600

RUNS.json lists each run's overrides; It is started once per process (see `start`): importing costs more than training.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMON = (
    "name=spread",
    "data.num_train=32",
    "data.num_eval=8",
    "data.batch_size=2",
    "data.prefetch=0",
    "global_batch_size=8",
    "trainer.max_steps=20",
    "trainer.log_every_n_steps=1",
    "trainer.gradient_clip_val=0.5",
    "optim=adamw",
    "optim.factory.lr=3e-3",
    "freeze=ffn",
    "task.text_dropout=0.2",
    "samples.every_n_steps=0",
    "logger.tensorboard=false",
    "checkpoint.every_n_steps=10",
)
"""Clipping and accumulation are active: 8 clips a step, 2 at once on each of one or two processes."""


def start(
    runs: Mapping[str, Sequence[str]], folder: Path, world: int, port: int, killed: bool = False
) -> None:
    """Do the runs, each in `folder/<name>`, in `world` processes; raises with their output if one crashes.

    What a run is refused with is in `folder/<name>.<rank>.told`. An override that begins with `@1:` is for that process
    only; `@files:200000` lets no file grow past so many bytes, as if the disk were full; `@kill:7` ends the
    processes by SIGKILL in the seventh batch, which `killed` expects.
    """
    listing = folder / f"runs_{world}.json"
    listing.write_text(json.dumps({name: list(overrides) for name, overrides in runs.items()}))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                str(listing),
                "--rank",
                str(r),
                "--world",
                str(world),
                "--port",
                str(port),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(world)
    ]
    outputs = [process.communicate(timeout=1500)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode != (-signal.SIGKILL if killed else 0):
            raise RuntimeError(output[-3000:])


def kill_in_batch(number: int) -> None:
    """End this process in the middle of the loss of that training batch."""
    from ovi_lab.tasks.base import FlowMatchingTask

    losses, seen = FlowMatchingTask.losses, []

    def killing(self, batch, sigmas, purpose, train):
        seen.append(train)
        if sum(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses(self, batch, sigmas, purpose, train)

    FlowMatchingTask.losses = killing


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("listing", type=Path)
    for word in ("rank", "world", "port"):
        parser.add_argument(f"--{word}", type=int, required=True)
    a = parser.parse_args()
    if a.world > 1:
        # what torchrun tells a process
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "tests",
            "RANK": str(a.rank),
            "LOCAL_RANK": str(a.rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(a.world),
            "LOCAL_WORLD_SIZE": str(a.world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(a.port),
        }
    import torch
    from hydra import compose, initialize_config_dir

    from ovi_lab.common.paths import config_dir
    from ovi_lab.common.progress import SilentReporter
    from ovi_lab.errors import UserError
    from ovi_lab.runs import run
    from ovi_lab.runs.run import execute

    torch.set_num_threads(1)
    # a run ends its processes' connection; DeepSpeed remembers the groups of the first one, so here it stays
    run._end_process_group = lambda: torch.distributed.barrier() if a.world > 1 else None
    folder = a.listing.parent
    for name, overrides in json.loads(a.listing.read_text()).items():
        own = [o.removeprefix(f"@{a.rank}:") for o in overrides if o[0] != "@" or o.startswith(f"@{a.rank}:")]
        limit = next((int(o.partition(":")[2]) for o in overrides if o.startswith("@files:")), None)
        place = [f"run_dir={folder / name}", f"data.root={folder / 'data'}", f"trainer.devices={a.world}"]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("train", overrides=[*COMMON, *place, *own])
        kill_in = next((int(o.partition(":")[2]) for o in overrides if o.startswith("@kill:")), 0)
        if kill_in:
            kill_in_batch(kill_in)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            execute(config, SilentReporter())
        except UserError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            (folder / f"{name}.{a.rank}.told").write_text(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


if __name__ == "__main__":
    main()
