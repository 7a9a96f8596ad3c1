"""Runs cases in a child process and sees what becomes of them, of crashes and hangs too."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from .outcomes import BAD, CRASH, GOOD, HANG

ROOT = Path(__file__).resolve().parents[2]
SECONDS_TO_START = 240.0
SECONDS_A_CASE = 120.0


@dataclass
class Tally:
    """What became of the cases of a kind."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Child:
    """A process that runs cases with the code of the checkout `tree`.

    Its processes are in a group of their own, which is ended as a whole.
    """

    def __init__(self, tree: Path, root: Path) -> None:
        self.tree, self.root = tree, root
        self.process: subprocess.Popen[str] | None = None

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, str]:
        """The answer; the outcome is "crash" or "hang" where there is none, and the process is replaced."""
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except OSError:
            return self._lost()
        line = self._line(seconds)
        if line is None:
            self.close()
            return {"outcome": HANG, "detail": f"no answer within {seconds:g} s", "what": ""}
        return json.loads(line) if line else self._lost()

    def _start(self) -> None:
        read, write = os.pipe()
        paths = [str(self.tree / "src"), str(self.tree / "evaluation"), str(ROOT / "tests")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self.errors = (self.root / "child.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.child", str(write), str(self.root)],
            stdin=subprocess.PIPE, stdout=self.errors, stderr=self.errors, text=True, pass_fds=(write,),
            env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(write)
        self.answers = os.fdopen(read, "rb", buffering=0)
        self.buffer = b""
        made = self.ask({"prepare": True}, SECONDS_TO_START)
        if made["outcome"] != "ready":
            raise RuntimeError(f"the fuzz test's child cannot start: {self._log()}")

    def _line(self, seconds: float) -> str | None:
        """A line of the child; "" where it has died, None where it says nothing."""
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.answers, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not waiting.select(max(0.0, until - time.monotonic())):
                    return None
                piece = self.answers.read(65536)
                if not piece:
                    return ""
                self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def _lost(self) -> dict[str, str]:
        assert self.process is not None
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = 0
        log = self._log()
        self.close()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return {"outcome": CRASH, "detail": f"the process ended with {how}: {log}", "what": ""}

    def _log(self) -> str:
        return (self.root / "child.log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        """End the process and all that it started."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=60)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.answers.close()
        self.errors.close()
        self.process = None

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run(
    cases: Iterable[tuple[str, int]],
    seed: int,
    tree: Path = ROOT,
    seconds: float = SECONDS_A_CASE,
    on_case: Callable[[str, int, dict[str, str]], None] | None = None,
) -> dict[str, Tally]:
    """Run the cases (kind, number); what became of them, by kind."""
    tallies: dict[str, Tally] = {}
    root = Path(tempfile.mkdtemp(prefix="ovi-fuzz-"))
    try:
        with Child(tree, root) as child:
            for kind, number in cases:
                tally = tallies.setdefault(kind, Tally(kind))
                if child.process is None:
                    child._start()
                begun = time.monotonic()
                seen = child.ask({"kind": kind, "seed": seed, "number": number}, seconds)
                tally.seconds += time.monotonic() - begun
                tally.counts[seen["outcome"]] += 1
                if seen["outcome"] not in GOOD:
                    again = f"python -m tests.fuzz --kinds {kind} --seed {seed} --first {number} --cases 1"
                    tally.failures.append(f"{seen['outcome']}: {again}\n  {seen['what']}\n{seen['detail']}")
                if on_case is not None:
                    on_case(kind, number, seen)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """Kind, cases, and how many ended in what."""
    head = ["kind", "cases", *GOOD, *BAD, "s"]
    rows = [head]
    for tally in tallies.values():
        counts = [str(tally.counts[name]) for name in (*GOOD, *BAD)]
        rows.append([tally.kind, str(sum(tally.counts.values())), *counts, f"{tally.seconds:.0f}"])
    widths = [12, *(len(name) for name in head[1:])]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)
