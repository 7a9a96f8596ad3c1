"""What became of a case, and how that is seen."""

from __future__ import annotations

import io
import os
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .mutations import MARKER, SECRET

LINE, REASON, VALID = "line", "reason", "valid"
TRACEBACK, UNTIDY, RAN, LEAK, CRASH, HANG = "traceback", "untidy", "code ran", "leak", "crash", "hang"
GOOD = (LINE, REASON, VALID)
BAD = (TRACEBACK, UNTIDY, RAN, LEAK, CRASH, HANG)

PREFIXES = (
    "error: ",
    "ovi-data: ",
    "ovi-eval: ",
    "ovi-export: ",
    "ovi-sample: ",
    "ovi-train: ",
    "ovi-plan: ",
)


@dataclass(frozen=True)
class Seen:
    """A case's outcome, with what is needed to understand one that is bad."""

    outcome: str
    detail: str = ""
    what: str = ""
    """What was spoiled, in words."""

    def as_dict(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """A prepared case: what is called, and how a reason shows in what it prints."""

    call: Callable[[], Any]
    what: str
    reason: Callable[[str], bool] = lambda text: False
    codes: tuple[int, ...] = (0, 1)
    """Exit codes beside 2 that the command has: 1 where it found what it was asked to look for."""


def observe(case: Case) -> Seen:
    """Run a case in the working folder, as the command line would be run; never raises for what the case does."""
    from ovi_lab.errors import UserError

    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    trace = ""
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = case.call()
        except SystemExit as left:
            code = left.code
        except UserError as error:
            # a function behind a command, whose main would print this
            code = 2
            print(f"error: {error}", file=err)
        except BaseException:
            trace = traceback.format_exc()
    text, errors = out.getvalue(), err.getvalue()
    seen = _judged(case, code, text, errors, trace)
    return Seen(seen[0], seen[1][-3000:], case.what)


def _judged(case: Case, code: Any, out: str, err: str, trace: str) -> tuple[str, str]:
    both = out + err
    if Path(MARKER).exists():
        return RAN, both
    if trace or "Traceback (most recent call last)" in both:
        return TRACEBACK, trace or both
    told = [line for line in err.splitlines() if line.startswith(PREFIXES)]
    if SECRET in both or _secret_in_files():
        return LEAK, "the value of an environment variable was written out: " + both
    if code == 2:
        lines = err.rstrip("\n").split("\n")
        if len(told) == 1 and lines[-1] == told[0]:
            control = [c for c in told[0] if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029\u202e"]
            return (
                (LEAK, f"control characters reach the terminal: {told[0]!r}") if control else (LINE, told[0])
            )
        return UNTIDY, f"{len(told)} lines of error: {both!r}"
    if code not in (None, *case.codes):
        return UNTIDY, f"exit code {code!r}: {both}"
    if "\x1b" in both:
        return LEAK, f"control characters reach the terminal: {both!r}"
    return (REASON if code == 1 or case.reason(both) else VALID), both


def _secret_in_files() -> bool:
    for folder, _, names in os.walk("out"):
        for name in names:
            path = Path(folder) / name
            if path.is_file() and path.stat().st_size < 2**22 and SECRET.encode() in path.read_bytes():
                return True
    return False
