"""`ovi-eval check`: its options and its exit code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ovi_eval.errors import UserError


def add_check(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to `ovi-eval`'s (what `ArgumentParser.add_subparsers` returned); sets `run`."""
    check: argparse.ArgumentParser = commands.add_parser(
        "check", help="recompute reference implementations' numbers on this machine and compare"
    )
    check.add_argument(
        "--only", metavar="NAMES", help="cases or groups of them, with commas between (as vggish,i3d.fvd)"
    )
    check.add_argument("--quick", action="store_true", help="leave out cases that take over about 5 s each")
    check.add_argument("--clips", metavar="DIR", help="folder of real clips that some goldens were made from")
    check.add_argument(
        "--weights", metavar="DIR", help="folder of published weight files (default: OVI_EVAL_WEIGHTS)"
    )
    check.add_argument("--goldens", metavar="DIR", help="compare with the goldens of another folder")
    check.add_argument("--json", metavar="OUT", help="also write everything that was compared to this file")
    check.set_defaults(run=run_check)
    return check


def run_check(options: argparse.Namespace) -> int:
    """Runs the cases, prints the table; 0 where none failed, else 1. Raises UserError for bad options."""
    from ovi_eval.check.goldens import Goldens, goldens_folder
    from ovi_eval.check.printing import Report, write
    from ovi_eval.check.runner import FAILED, chosen, run_cases

    cases = chosen(_names(options.only))
    goldens = Goldens(options.goldens or goldens_folder())
    out = Path(options.json) if options.json else None
    if out is not None and out.is_dir():
        raise UserError(f"--json {out}: is a folder; name a file, as {out}/check.json")
    with Report(len(cases)) as report:
        outcomes = run_cases(
            cases,
            goldens,
            clips=_folder(options.clips),
            weights=_folder(options.weights),
            quick=options.quick,
            begun=report.begun,
            ended=report.ended,
        )
    if out is not None:
        write(out, outcomes, goldens.folder)
        print(out)
    return int(any(outcome.verdict == FAILED for outcome in outcomes))


def _folder(text: str | None) -> Path | None:
    return Path(text) if text else None


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--only expects names with commas between, found {text!r}")
    return names
