"""`ovi-data report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ovi_eval.common.boundary import LineParser
from ovi_eval.common.shown import shown
from ovi_lab.data.cli_output import print_table
from ovi_lab.errors import UserError


def add_report(commands: Any) -> None:
    """Add `report` to the commands of `ovi-data`."""
    text = "write a page about a build: what was dropped and why, with clips that play"
    parser: LineParser = commands.add_parser("report", help=text)
    parser.examples = (
        ("ovi-data report shards", "shards/report.html; dropped clips are cut from their videos"),
        ("ovi-data report shards --videos /mnt/videos", "where the videos have been moved to"),
        ("ovi-data report /scratch/build", "of the --work folder of shards that went to a store"),
    )
    option = parser.add_argument
    option("shards", type=Path, metavar="SHARDS", help="a folder that ovi-data build made")
    option("--videos", type=Path, metavar="FOLDER", help="where its sources are (where they were built from)")
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> None:
    from ovi_lab.data.build.folder import BuiltFolder
    from ovi_lab.data.build.report.page import write_report

    if arguments.videos is not None and not arguments.videos.is_dir():
        raise UserError(f"--videos {shown(arguments.videos)} is no folder; name that of the sources")
    written = write_report(BuiltFolder.open(arguments.shards), arguments.videos)
    rows = [
        ("page", f"{written.path}, {written.size / 1e6:.1f} MB"),
        ("clips", f"{written.clips}, {written.shown} of them play on the page"),
        (
            "",
            f"{written.cannot} cannot be shown: their source is gone or unreadable" if written.cannot else "",
        ),
        ("", f"{written.left_out} left out to keep the page small" if written.left_out else ""),
    ]
    print_table("report", rows)
