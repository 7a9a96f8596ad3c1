"""`ovi-eval leaderboard`: runs ranked, on the terminal, as Markdown, as a figure and as one HTML page."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovi_eval.commands.options import names_of
from ovi_eval.errors import UserError

HELP = "rank runs: table, Markdown, figure, HTML page"
EXAMPLES = (
    ("ovi-eval leaderboard runs/fusion_ablation", "a study, into its own folder"),
    (
        "ovi-eval leaderboard runs/factors --x rope.factor --by fusion.direction",
        "curves over a number of the runs",
    ),
    ("ovi-eval leaderboard results.json --with published", "beside numbers that others published"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add = parser.add_argument
    add("runs", nargs="+", help="study folders, run folders or results files")
    add("--out", help="folder to write to (default: the study's own, if one folder is named)")
    add("--first", help="the arm that the others are compared with")
    add("--order", help="arms in the order to show them, with commas between")
    add(
        "--x",
        metavar="KEY",
        help="a setting with a number: its curve; two, with a comma between: their table",
    )
    add("--by", metavar="KEY", help="setting that tells curves apart (several with commas between)")
    add("--title", help="heading of the page")
    add("--message", help="a sentence under the heading")
    add("--claims", help="YAML or JSON file of claims to be held against the numbers")
    add(
        "--clips",
        action="append",
        default=[],
        metavar="DIR",
        help="folder above the runs' clips, where they lie outside of the runs' own folders (may be repeated)",
    )
    add(
        "--with",
        dest="beside",
        metavar="WHAT",
        choices=["published"],
        help="published: also show numbers that others published, with their sources, unranked",
    )


def run(options: argparse.Namespace) -> None:
    """Ranks, writes the files and prints the table. Raises UserError for bad input."""
    from ovi_eval.ranking.leaderboard import build_leaderboard
    from ovi_eval.ranking.sweep import Axes
    from ovi_eval.report import write_all
    from ovi_eval.report.terminal import show
    from ovi_eval.results.published import published_tables

    if options.by and not options.x:
        raise UserError("--by tells the curves of --x apart: give --x KEY too, a setting with a number")
    out = Path(options.out) if options.out else _default_folder(options.runs)
    board = build_leaderboard(
        options.runs,
        first=options.first,
        title=options.title,
        message=options.message,
        order=names_of(options.order, "--order"),
        claims=_claims(options.claims),
        published=published_tables() if options.beside else (),
        clips=options.clips,
        axes=Axes(names_of(options.x, "--x") or (), names_of(options.by, "--by") or ())
        if options.x
        else None,
    )
    write_all(board, out, progress=True)
    show(board)
    print(out / "leaderboard.html")


def _default_folder(runs: Sequence[str]) -> Path:
    """The study's own folder; for one run, whose results.json must not be replaced, or several, one beside them."""
    from ovi_eval.results.files import LEADERBOARD_SCHEMA, load_json

    folder, results = Path(runs[0]), Path(runs[0]) / "results.json"
    own = not results.is_file() or load_json(results).get("schema") == LEADERBOARD_SCHEMA
    if len(runs) == 1 and folder.is_dir() and own:
        return folder
    folders = [Path(run).resolve() if Path(run).is_dir() else Path(run).resolve().parent for run in runs]
    return Path(os.path.commonpath(folders)) / "leaderboard"


def _claims(path: str | None) -> list[Any] | None:
    """Claims of a file: a list, or an object with a list under `claims`."""
    if path is None:
        return None
    from ovi_eval.common.plain_data import read_json, read_yaml

    data = read_json(path) if Path(path).suffix == ".json" else read_yaml(path)
    data = data.get("claims") if isinstance(data, dict) else data
    if not isinstance(data, list):
        raise UserError(f"{path}: expected a list of claims, or one under the key claims")
    return data
