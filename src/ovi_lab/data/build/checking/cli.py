"""`ovi-data check`."""

from __future__ import annotations

import argparse
from typing import Any

from ovi_eval.common.boundary import LineParser
from ovi_lab.data.cli_output import print_table
from ovi_lab.errors import UserError

LISTED = 50
"""Faults that are printed one by one."""


def add_check(commands: Any) -> None:
    """Add `check` to the commands of `ovi-data`."""
    text = "decode every sample of shards, and compare them with index, sums, manifest and list of clips"
    parser: LineParser = commands.add_parser("check", help=text)
    parser.examples = (
        ("ovi-data check shards", "a folder that ovi-data build made: everything in it"),
        ("ovi-data check s3://bucket/shards --workers 8", "of a store, on 8 processes"),
        (
            "ovi-data check 'shards/mine-*.tar'",
            "shards of any origin: what can be checked without a manifest",
        ),
    )
    option = parser.add_argument
    option(
        "shards",
        nargs="+",
        metavar="SHARDS",
        help="folders, addresses, and patterns with braces expanded",
    )
    option("--workers", type=int, default=1, help="processes (1)")
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from ovi_lab.data.build.checking.check import check

    if arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}; at least 1")
    found = check(arguments.shards, arguments.workers)
    rows = [
        ("shards", f"{found.shards}, {found.size / 2**20:.1f} MiB"),
        ("samples", str(found.samples)),
        ("picture", f"{found.picture / 60:.1f} min decoded" if found.picture else ""),
        ("sound", f"{found.sound / 60:.1f} min decoded" if found.sound else ""),
        ("compared", "indexes" + (", SHA256SUMS, manifest.json, clips.jsonl" if found.built else "")),
        ("faults", str(len(found.faults))),
    ]
    rows += [("", str(fault)) for fault in found.faults[:LISTED]]
    rows += [("", f"and {len(found.faults) - LISTED} more")] if len(found.faults) > LISTED else []
    print_table("checked", rows)
    return 1 if found.faults else 0
