"""Commands and process groups as forks of one warm process, which has imported all that is slow to import.

The warm process is started with the first fork and has done nothing else: a fork is a fresh process for 10 ms instead
of 6 s. Every fork leads a session of its own, ends as a whole, and not later than its time limit.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import secrets
import signal
import socket
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
sys.path.append(
    str(Path(__file__).parents[2])
)  # forks find a test's function as tests.folder.test_file.function
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


class Fork:
    """A call in a fork. What it prints is `output`, standard error with it."""

    def __init__(
        self, call: Callable[..., None], *arguments: Any, cwd: Path | None = None, **environment: str
    ) -> None:
        os.environ |= _ENVIRONMENT
        descriptor, name = tempfile.mkstemp()
        os.close(descriptor)
        self._printed = Path(name)
        weakref.finalize(self, self._printed.unlink, missing_ok=True)
        about = (call, arguments, str(self._printed), str(cwd or Path.cwd()), dict(os.environ) | environment)
        warm_process()
        self.process = _CONTEXT.Process(target=_begin, args=about, daemon=True)
        self.process.start()

    @property
    def output(self) -> str:
        return self._printed.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def code(self) -> int | None:
        """Exit code, less than 0 for a signal; None while it runs."""
        return self.process.exitcode

    def signal(self, number: int) -> None:
        """To the fork and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Its exit code; it is killed, and the test fails, where it takes longer."""
        self.process.join(seconds)
        code = self.code
        self.signal(signal.SIGKILL)
        if code is None:
            self.process.join(10)
            raise AssertionError(f"no end within {seconds} s: {self.output[-3000:]}")
        return code


def warm_process() -> None:
    """Starts it where it does not run. It finds what it imports first by PYTHONPATH alone (Python up to 3.13)."""
    _CONTEXT.set_forkserver_preload(["helpers.warm"])  # also where a build of shards has set its own
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), before)))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _begin(
    call: Callable[..., None], arguments: Sequence[Any], printed: str, cwd: str, environment: dict[str, str]
) -> None:
    os.setsid()
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        os.dup2(
            os.open(os.devnull if number == 0 else printed, mode | (os.O_APPEND if number else 0)), number
        )
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.current_process()._config["daemon"] = (
        False  # only daemons may have no processes of their own
    )
    # as in a program of its own: its data workers would otherwise start a warm process and import all again
    multiprocessing.set_start_method("fork", force=True)
    import torch

    torch.set_num_threads(1)
    call(*arguments)


def run_module(module: str, arguments: Sequence[str]) -> None:
    """What `python -m MODULE ARGUMENTS` does."""
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def command(module: str, *arguments: str, cwd: Path | None = None, **environment: str) -> Fork:
    """`python -m MODULE ARGUMENTS`, started."""
    return Fork(run_module, module, arguments, cwd=cwd, **environment)


def free_port() -> int:
    """A port of this machine that nothing listens on, below those that the system gives to connections.

    So it stays free until it is used: a port of the system's choice may belong to a connection by then."""
    while True:
        port = secrets.choice(range(20_000, 32_768))
        with socket.socket() as free, suppress(OSError):
            free.bind(("", port))
            return port


def ranks(
    call: Callable[..., None], *arguments: Any, world: int = 2, cwd: Path | None = None, **environment: str
) -> list[Fork]:
    """The same call as each process of a group, with what torchrun puts into their environment."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GROUP_RANK": "0"}
    group |= {"TORCHELASTIC_RUN_ID": "tests", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return [
        Fork(call, *arguments, cwd=cwd, **(group | environment), RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(world)
    ]


def wait_for_all(
    forks: Sequence[Fork], expected: Sequence[int] | None = None, seconds: float = 300
) -> list[str]:
    """What each printed, once all have ended with the `expected` codes (0).

    The test fails with what the first printed that ended otherwise; the others, which may wait for it, are killed.
    """
    right = dict(zip((fork.process.sentinel for fork in forks), expected or [0] * len(forks), strict=True))
    running, end = {fork.process.sentinel: fork for fork in forks}, time.monotonic() + seconds
    try:
        while running:
            ended = connection.wait(running, timeout=max(0, end - time.monotonic()))
            if not ended:
                raise AssertionError(
                    f"no end within {seconds} s: {next(iter(running.values())).output[-3000:]}"
                )
            for sentinel in ended:
                fork = running.pop(sentinel)
                code = fork.wait()
                assert code == right[sentinel], f"exit code {code}: {fork.output[-4000:]}"
    finally:
        for fork in running.values():
            fork.signal(signal.SIGKILL)
            fork.process.join(10)
    return [fork.output for fork in forks]
