"""`ovi-eval check`: its options and its exit code."""

from __future__ import annotations

import argparse
from pathlib import Path

from ovi_eval.commands.options import WEIGHTS_HELP, names_of
from ovi_eval.errors import UserError

HELP = "recompute reference implementations' numbers on this machine and compare"
EXAMPLES = (
    ("ovi-eval check --quick", "every case that needs a few seconds"),
    (
        "ovi-eval check --only vggish,i3d.fvd --weights /data/weights",
        "two groups of cases, with published weights",
    ),
    ("ovi-eval check --json check.json", "all cases, and everything that was compared in a file"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add = parser.add_argument
    add("--only", metavar="NAMES", help="cases or groups of them, with commas between (as vggish,i3d.fvd)")
    add("--quick", action="store_true", help="leave out cases that take over about 5 s each")
    add("--clips", type=Path, metavar="DIR", help="folder of real clips that some goldens were made from")
    add("--weights", type=Path, metavar="DIR", help=WEIGHTS_HELP)
    add("--goldens", metavar="DIR", help="compare with the goldens of another folder")
    add("--json", type=Path, metavar="OUT", help="also write everything that was compared to this file")


def run(options: argparse.Namespace) -> int:
    """Runs the cases, prints the table; 0 where none failed, else 1. Raises UserError for bad options."""
    from ovi_eval.check.goldens import Goldens, goldens_folder
    from ovi_eval.check.printing import Report, write
    from ovi_eval.check.runner import FAILED, chosen, run_cases

    cases = chosen(names_of(options.only, "--only"))
    goldens = Goldens(options.goldens or goldens_folder())
    out = options.json
    if out is not None and out.is_dir():
        raise UserError(f"--json {out}: is a folder; name a file, as {out}/check.json")
    with Report(len(cases)) as report:
        outcomes = run_cases(
            cases,
            goldens,
            clips=options.clips,
            weights=options.weights,
            quick=options.quick,
            begun=report.begun,
            ended=report.ended,
        )
    if out is not None:
        write(out, outcomes, goldens.folder)
        print(out)
    return int(any(outcome.verdict == FAILED for outcome in outcomes))
