"""`python -m tests.fuzz`: more cases than the suite has, a case again, or the same cases against another checkout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .outcomes import GOOD
from .running import ROOT, SECONDS_A_CASE, run, table

NAMES = ("shards", "indices", "media", "captions", "checkpoints", "presets", "results", "overrides")


def main() -> int:
    """Run, print what is bad as it comes and the table at the end; 1 where anything was bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", default=",".join(NAMES), help="with commas between")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose code is run")
    parser.add_argument("--seconds", type=float, default=SECONDS_A_CASE, help="after which a case hangs")
    parser.add_argument("--all", action="store_true", help="print every case")
    options = parser.parse_args()
    kinds = options.kinds.split(",")

    def told(kind: str, number: int, seen: dict[str, str]) -> None:
        if seen["outcome"] not in GOOD or options.all:
            detail = seen["detail"] if seen["outcome"] not in GOOD else seen["detail"].strip()[:200]
            print(f"--- {kind} {number}: {seen['outcome']}: {seen['what']}\n{detail}", flush=True)

    cases = [
        (kind, number) for kind in kinds for number in range(options.first, options.first + options.cases)
    ]
    tallies = run(cases, options.seed, options.tree.resolve(), options.seconds, told)
    print(table(tallies))
    return 1 if any(tally.failures for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
