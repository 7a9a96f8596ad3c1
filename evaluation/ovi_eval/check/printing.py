"""What a check prints, case by case as they end, and the file it can write."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ovi_eval import __version__
from ovi_eval.check.case import Case
from ovi_eval.check.lines import Line
from ovi_eval.check.runner import FAILED, NOT_RUN, OK, CaseOutcome
from ovi_eval.common.files import write_whole
from ovi_eval.common.provenance import installed

SCHEMA = "ovi_eval.check/1"
WIDTH = 120
SHOWN = 3
"""Quantities of a failed case that the summary names."""
_STYLES = {OK: "green", FAILED: "bold red", NOT_RUN: "yellow"}
_VERDICT_WIDTH = len(NOT_RUN)


class Report:
    """Prints each case below the last, above a bar that names the one that runs; counts at the end.

    At most 120 columns wide, and 120 where the output goes to a file or a pipe.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        if console is None:
            console = Console()
            console = Console(width=min(WIDTH, console.width) if console.is_terminal else WIDTH)
        self.console = console
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
        self.bar = Progress(*columns, console=console, transient=True)
        self.task = self.bar.add_task("", total=total)
        self.outcomes: list[CaseOutcome] = []

    def __enter__(self) -> Report:
        heads = ("quantity", "expected", "got", "tolerance", "verdict")
        self.console.print(self._grid([tuple(Text(head, style="bold") for head in heads)]))
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.stop()
        if kind is None:
            self._summary()

    def begun(self, case: Case) -> None:
        """Names the case that runs now."""
        self.bar.update(self.task, description=case.name)

    def ended(self, outcome: CaseOutcome) -> None:
        """Prints what came of a case."""
        case = outcome.case
        parts = [(case.name, "bold"), (f"  {case.metric}", ""), (f"  {case.reference}", "dim")]
        self.console.print()
        self.console.print(Text.assemble(*parts))
        rows = [_row(line) for line in outcome.lines]
        if rows:
            self.console.print(self._grid(rows))
        if outcome.reason:
            text = Text.assemble((f"{outcome.verdict}: ", _STYLES[outcome.verdict]), outcome.reason)
            self.console.print(text)
        self.outcomes.append(outcome)
        self.bar.advance(self.task)

    def _grid(self, rows: Sequence[tuple[Text, ...]]) -> Table:
        """A table whose columns are as wide as every other's, so that cases stand below each other."""
        room = self.console.width - _VERDICT_WIDTH - 8
        quantity, number, tolerance = (room * part // 100 for part in (45, 17, 21))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=quantity, overflow="fold")
        table.add_column(width=number, justify="right", overflow="fold")
        table.add_column(width=number, justify="right", overflow="fold")
        table.add_column(width=tolerance, overflow="fold")
        table.add_column(width=_VERDICT_WIDTH)
        for row in rows:
            table.add_row(*row)
        return table

    def _summary(self) -> None:
        counts = {verdict: sum(o.verdict == verdict for o in self.outcomes) for verdict in _STYLES}
        lines = sum(len(outcome.lines) for outcome in self.outcomes)
        self.console.print()
        self.console.print(
            Text(
                f"{len(self.outcomes)} cases, {lines} quantities: {counts[OK]} ok, {counts[FAILED]} failed, "
                f"{counts[NOT_RUN]} not run"
            )
        )
        for outcome in self.outcomes:
            if outcome.verdict == FAILED:
                bad = [line.quantity for line in outcome.lines if not line.passed]
                more = [f"{len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
                what = "; ".join([*bad[:SHOWN], *more, *([outcome.reason] if outcome.reason else [])])
                self.console.print(Text(f"FAILED {outcome.case.name}: {what}", style=_STYLES[FAILED]))


def _row(line: Line) -> tuple[Text, ...]:
    several = line.count > 1 and isinstance(line.got, float)
    quantity = f"{line.quantity} (worst of {line.count})" if several else line.quantity
    verdict = OK if line.passed else FAILED
    numbers = (Text(_number(each, line.passed)) for each in (line.expected, line.got))
    return Text(quantity), *numbers, Text(line.tolerance), Text(verdict, style=_STYLES[verdict])


def _number(value: float | str, passed: bool) -> str:
    """Eight digits of a number and the beginning of a digest; all of it where the difference matters."""
    if isinstance(value, float):
        return f"{value:.8g}" if passed else repr(value)
    return value if len(value) <= 24 or not passed else f"{value[:12]}…"


def write(path: Path, outcomes: Sequence[CaseOutcome], goldens: Path) -> None:
    """Writes all that was compared as JSON, whole or not at all."""
    content = {
        "schema": SCHEMA,
        "ovi_eval": __version__,
        "goldens": str(goldens),
        "machine": {"python": platform.python_version(), "system": platform.platform()},
        "packages": {
            name: installed(name) for name in ("torch", "numpy", "av", "onnxruntime", "transformers")
        },
        "cases": [_case(outcome) for outcome in outcomes],
    }
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _case(outcome: CaseOutcome) -> dict[str, Any]:
    case = outcome.case
    return {
        "name": case.name,
        "metric": case.metric,
        "reference": case.reference,
        "goldens": list(case.goldens),
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "seconds": round(outcome.seconds, 3),
        "lines": [
            {
                "quantity": line.quantity,
                "expected": line.expected,
                "got": _finite(line.got),
                "tolerance": line.tolerance,
                "share_of_tolerance": _finite(line.share),
                "numbers": line.count,
                "passed": line.passed,
                "why": line.why,
            }
            for line in outcome.lines
        ],
    }


def _finite(value: float | str | None) -> float | str | None:
    """JSON has no infinity and no NaN: these become texts."""
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return str(value)
    return value
