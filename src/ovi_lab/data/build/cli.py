"""The commands of `ovi-data` around a build."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ovi_eval.common.boundary import LineParser
from ovi_eval.common.shown import shown
from ovi_lab.common.following import typed
from ovi_lab.data.cli_output import print_next, print_table
from ovi_lab.errors import UserError


def add_build(commands: Any) -> None:
    """Add `build` to the commands of `ovi-data`."""
    parser: LineParser = commands.add_parser(
        "build", help="turn a folder of videos or sounds into training shards"
    )
    parser.examples = (
        (
            "ovi-data build videos shards --recipe paper",
            "scenes cut into clips, judged, and packed; again to go on",
        ),
        ("ovi-data build videos shards --recipe mine.yaml --workers 8", "your own steps and bounds"),
        (
            "ovi-data build videos shards --recipe mine.yaml --rescore",
            "other bounds on the scores that are there",
        ),
    )
    option = parser.add_argument
    option(
        "folder",
        metavar="FOLDER",
        help="where the files are, in any depth; or an address (s3://bucket/videos)",
    )
    option(
        "shards", metavar="SHARDS", help="folder for shards, manifest and scores; or an address, with --work"
    )
    option(
        "--work",
        type=Path,
        metavar="DIR",
        help="where shards for an address are built, before they are copied",
    )
    option("--recipe", default="paper", help="paper, paper_audio, or a YAML file (paper)")
    option(
        "--captions", type=Path, help=".csv, .tsv or .jsonl of file and caption; else a .txt beside each file"
    )
    option(
        "--scores",
        type=Path,
        metavar="TABLE",
        help=".jsonl, .csv or .tsv of another builder: file, and its scores and caption",
    )
    option(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="processes of this machine, or a Ray cluster (RAY_ADDRESS)",
    )
    option("--workers", type=int, help="processes (1), or actors on Ray (one for each CPU)")
    option("--rescore", action="store_true", help="decide anew on the scores that are there; measure nothing")
    option(
        "--skip-missing", action="store_true", help="leave out steps whose packages or weights are missing"
    )
    parser.set_defaults(run=_build)


def _build(arguments: argparse.Namespace) -> None:
    from ovi_lab.data.build.build import BuildOptions, build
    from ovi_lab.data.build.given import GivenScores
    from ovi_lab.data.build.items import WORK
    from ovi_lab.data.build.recipe import load_recipe
    from ovi_lab.data.build.remote import upload, work_folder
    from ovi_lab.data.build.store_lock import alone_at
    from ovi_lab.data.stores import RemoteShard, is_remote

    folder = RemoteShard(arguments.folder) if is_remote(arguments.folder) else Path(arguments.folder)
    out, address = work_folder(arguments.shards, arguments.work)
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers is {arguments.workers}; at least 1")
    given = GivenScores() if arguments.scores is None else GivenScores.read(arguments.scores)
    recipe = load_recipe(arguments.recipe, given.numbers)
    options = BuildOptions(arguments.workers, arguments.engine, arguments.rescore, arguments.skip_missing)
    copied = None
    with ExitStack() as stack:
        lock = None if address is None else stack.enter_context(alone_at(address))
        built, skipped = build(folder, out, recipe, options, arguments.captions, given)
        if lock is not None:
            copied = upload(out, out / WORK, lock.address, check=lock.check)
    kept = sum(built.kept.values())
    rows = [
        ("files", f"{built.sources}, {len(built.failed)} not usable to their end"),
        ("clips", f"{built.clips}, {kept} kept, {built.seconds / 60:.1f} min"),
        ("splits", ", ".join(f"{count} {split}" for split, count in sorted(built.kept.items()))),
        ("dropped", ", ".join(f"{count} by {name}" for name, count in built.dropped.most_common())),
        ("not applied", ", ".join(skipped)),
        ("shards", f"{len(built.shards)} in {out}"),
        ("to look at", f"ovi-data report {typed(out)}" if built.clips else ""),
        (
            "copied",
            "" if copied is None else f"{copied} files to {shown(address)}, the others lay there already",
        ),
        ("scores", "; ".join(given.summary())),
        (
            "",
            f"measured, so not from the table: {', '.join(twice)}" if (twice := recipe.measured_too) else "",
        ),
    ]
    failed = list(built.failed.items())
    rows += [("not usable", f"{shown(name)}: {shown(reason, 400)}") for name, reason in failed[:20]]
    rows += [("", f"and {len(failed) - 20} more, in manifest.json")] if len(failed) > 20 else []
    print_table("built", rows)
    if built.dropped["caption"] and not kept:
        print_next(f"ovi-data captions {typed(out)} --ask http://127.0.0.1:8000/v1")
    elif kept:
        pattern = typed(out / "train-*.tar")
        print_next(f"ovi-data latents {pattern} --weights DIR --text --out {typed(out / 'latents')}")
