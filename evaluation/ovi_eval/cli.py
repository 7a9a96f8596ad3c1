"""ovi-eval: scores clips, ranks runs, lists metrics. Bad input ends with one line on stderr and code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovi_eval import __version__
from ovi_eval.commands.check import add_check
from ovi_eval.commands.compare import add_compare
from ovi_eval.commands.score import add_metrics, add_score, listed
from ovi_eval.common.boundary import LineParser, command
from ovi_eval.errors import UserError


@command("ovi-eval")
def main(argv: Sequence[str] | None = None) -> int | None:
    """Runs one command; returns 0, what the command says, or 2 for bad input and 130 where it was interrupted."""
    options = _parser().parse_args(argv)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="ovi-eval", description="Score clips of video and sound, and rank what was scored."
    )
    parser.add_argument("--version", action="version", version=f"ovi-eval {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=LineParser
    )

    add_score(commands)
    board = commands.add_parser("leaderboard", help="rank runs: table, Markdown, figure, HTML page")
    board.add_argument("runs", nargs="+", help="study folders, run folders or results files")
    board.add_argument("--out", help="folder to write to (default: the study's own, if one folder is named)")
    board.add_argument("--first", help="the arm that the others are compared with")
    board.add_argument("--order", help="arms in the order to show them, with commas between")
    board.add_argument("--title", help="heading of the page")
    board.add_argument("--message", help="a sentence under the heading")
    board.add_argument("--claims", help="YAML or JSON file of claims to be held against the numbers")
    board.add_argument(
        "--clips",
        action="append",
        default=[],
        metavar="DIR",
        help="folder above the runs' clips, where they lie outside of the runs' own folders (may be repeated)",
    )
    board.add_argument(
        "--with",
        dest="beside",
        metavar="WHAT",
        choices=["published"],
        help="published: also show numbers that others published, with their sources, unranked",
    )
    board.set_defaults(run=_leaderboard)

    add_compare(commands)
    add_metrics(commands)
    add_check(commands)
    return parser


def _leaderboard(options: argparse.Namespace) -> None:
    from ovi_eval.ranking.build import build_leaderboard
    from ovi_eval.report import write_all
    from ovi_eval.report.terminal import show
    from ovi_eval.results.published import published_tables

    out = options.out
    folder = Path(options.runs[0])
    single = len(options.runs) == 1 and folder.is_dir() and not _is_run(folder)
    if out is None:
        out = folder if single else _beside(options.runs)
    board = build_leaderboard(
        options.runs,
        first=options.first,
        title=options.title,
        message=options.message,
        order=listed(options.order),
        claims=_claims(options.claims),
        published=published_tables() if options.beside else (),
        clips=options.clips,
    )
    write_all(board, Path(out), progress=True)
    show(board)
    print(Path(out) / "leaderboard.html")


def _beside(runs: Sequence[str]) -> Path:
    """Where a leaderboard of several runs goes: a folder beside them."""
    folders = [Path(run).resolve() if Path(run).is_dir() else Path(run).resolve().parent for run in runs]
    return Path(os.path.commonpath(folders)) / "leaderboard"


def _is_run(folder: Path) -> bool:
    """Whether a folder's results.json is that of one run, which a leaderboard must not replace."""
    from ovi_eval.results.files import LEADERBOARD_SCHEMA, load_json

    path = folder / "results.json"
    return path.is_file() and load_json(path).get("schema") != LEADERBOARD_SCHEMA


def _claims(path: str | None) -> list[Any] | None:
    """Claims of a file: a list, or an object with a list under `claims`."""
    if path is None:
        return None
    from ovi_eval.common.plain_data import read_json, read_yaml

    data = read_json(path) if Path(path).suffix == ".json" else read_yaml(path)
    if isinstance(data, dict):
        data = data.get("claims")
    if not isinstance(data, list):
        raise UserError(f"{path}: expected a list of claims, or one under the key claims")
    return data


if __name__ == "__main__":
    sys.exit(main())
