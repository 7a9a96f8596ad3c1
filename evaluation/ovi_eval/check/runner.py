"""Runs cases one after the other and says of each what came out."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ovi_eval.check.case import CannotRunError, Case, Setting
from ovi_eval.check.cases import CASES
from ovi_eval.check.goldens import Goldens
from ovi_eval.check.lines import Line
from ovi_eval.common.shown import did_you_mean
from ovi_eval.common.weights import WEIGHTS_FOLDER
from ovi_eval.errors import UserError

OK, FAILED, NOT_RUN = "ok", "FAILED", "not run"


@dataclass(frozen=True)
class CaseOutcome:
    """What came of one case: its lines, and why it failed or did not run beyond them ("": it ran through)."""

    case: Case
    lines: list[Line] = field(default_factory=list)
    verdict: str = OK
    reason: str = ""
    seconds: float = 0.0


def chosen(names: Sequence[str] | None) -> list[Case]:
    """Cases by name or group, in their own order; all for None. Raises UserError for an unknown name."""
    if names is None:
        return list(CASES.values())
    groups = {case.group for case in CASES.values()}
    for name in names:
        if name not in CASES and name not in groups:
            offer = did_you_mean(name, [*groups, *CASES]) or f"there are {', '.join(sorted(groups))}"
            raise UserError(f"no check is called {name!r}; {offer}")
    return [case for case in CASES.values() if case.name in names or case.group in names]


def run_cases(
    cases: Sequence[Case],
    goldens: Goldens,
    *,
    clips: Path | None = None,
    weights: Path | None = None,
    quick: bool = False,
    begun: Callable[[Case], None] | None = None,
    ended: Callable[[CaseOutcome], None] | None = None,
) -> list[CaseOutcome]:
    """Runs the cases in a folder of their own for files, which is gone afterwards.

    `weights`: a folder of published files (None: that of OVI_EVAL_WEIGHTS); `quick` leaves slow cases out;
    `begun` and `ended` hear of each case. Raises UserError where a folder is not there.
    """
    for option, folder in (("--clips", clips), ("--weights", weights)):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{option} {folder}: no such folder")
    outcomes: list[CaseOutcome] = []
    with tempfile.TemporaryDirectory(prefix="ovi-eval-check-") as scratch, _weights_in(weights):
        setting = Setting(goldens, clips, Path(scratch) / "files")
        setting.forget()
        for done, case in enumerate(cases):
            if begun is not None:
                begun(case)
            if done and cases[done - 1].group != case.group:
                setting.forget()
            if quick and case.slow:
                outcomes.append(CaseOutcome(case, verdict=NOT_RUN, reason="takes longer; leave --quick out"))
            else:
                outcomes.append(_outcome(case, setting))
            if ended is not None:
                ended(outcomes[-1])
    return outcomes


def _outcome(case: Case, setting: Setting) -> CaseOutcome:
    lines: list[Line] = []
    began = time.perf_counter()
    verdict, reason = OK, ""
    try:
        for line in case.run(setting):  # what came before a fault is kept
            lines.append(line)
        if not lines:
            verdict, reason = FAILED, "it compared nothing"
    except CannotRunError as error:
        verdict, reason = NOT_RUN, str(error)
    except UserError as error:
        verdict, reason = FAILED, str(error)
    except Exception as error:  # whatever a case raises is shown, and the next one runs
        verdict, reason = FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"
    if any(not line.passed for line in lines):
        verdict = FAILED
    return CaseOutcome(case, lines, verdict, reason, time.perf_counter() - began)


@contextmanager
def _weights_in(folder: Path | None) -> Iterator[None]:
    """Has `find_weights` look in that folder for a while."""
    before = os.environ.get(WEIGHTS_FOLDER)
    if folder is not None:
        os.environ[WEIGHTS_FOLDER] = str(folder)
    try:
        yield
    finally:
        if folder is not None:
            os.environ.pop(WEIGHTS_FOLDER)
            if before is not None:
                os.environ[WEIGHTS_FOLDER] = before
