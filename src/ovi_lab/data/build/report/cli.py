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
        (
            "ovi-data report s3://bucket/shards --videos s3://bucket/videos",
            "of a store, beside whose shards the page is written",
        ),
    )
    option = parser.add_argument
    option("shards", metavar="SHARDS", help="a folder that ovi-data build made, or an address")
    option(
        "--videos",
        metavar="FOLDER",
        help="where its sources are, a folder or an address (where they were built from)",
    )
    option("--out", type=Path, metavar="FILE", help="the page (SHARDS/report.html)")
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> None:
    from ovi_lab.data.build.folder import opened_folder
    from ovi_lab.data.build.report.page import write_report
    from ovi_lab.data.stores import RemoteShard, is_remote

    videos: Path | RemoteShard | None = None
    if arguments.videos is not None:
        remote = is_remote(arguments.videos)
        videos = RemoteShard(arguments.videos) if remote else Path(arguments.videos)
        if isinstance(videos, Path) and not videos.is_dir():
            raise UserError(f"--videos {shown(videos)} is no folder; name that of the sources")
    if arguments.out is not None and (arguments.out.is_dir() or not arguments.out.parent.is_dir()):
        raise UserError(f"--out {shown(arguments.out)} is no file in a folder that is there; name one")
    with opened_folder(arguments.shards) as folder:
        written = write_report(folder, videos, arguments.out)
    rows = [
        ("page", f"{written.where}, {written.size / 1e6:.1f} MB"),
        ("clips", f"{written.clips}, {written.shown} of them play on the page"),
        (
            "",
            f"{written.cannot} cannot be shown: their source is gone or unreadable" if written.cannot else "",
        ),
        ("", f"{written.left_out} left out to keep the page small" if written.left_out else ""),
    ]
    print_table("report", rows)
