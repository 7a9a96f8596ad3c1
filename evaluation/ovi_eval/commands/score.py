"""`ovi-eval score`: clips to results.json."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovi_eval.commands.options import WEIGHTS_HELP, names_of, use_weights
from ovi_eval.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from ovi_eval.scoring.results_of import Progress as Step


HELP = "score clips, against real ones where a metric compares"
EXAMPLES = (
    ("ovi-eval score clips", "every metric that is available, into results.json"),
    (
        "ovi-eval score clips --reference real --metrics fad,fvd --out a.json",
        "two metrics against real clips",
    ),
    (
        "ovi-eval score clips --captions captions.csv --device cuda --limit 16",
        "a first look at 16 clips, on a GPU",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add = parser.add_argument
    add("clips", help="a folder of clips (mp4, wav, …), one file, or a clips.safetensors")
    add("--reference", metavar="REAL", help="real clips, for the metrics that compare with such")
    add("--metrics", help="names with commas between (default: all that are available; see metrics)")
    add("--out", default="results.json", help="where the results go (default: results.json)")
    add("--captions", help="CSV, TSV or JSONL of id and caption (default: those in the folder)")
    add(
        "--transcripts",
        metavar="FILE",
        help="CSV, TSV or JSONL of id and text: error rates of these, not of Whisper's",
    )
    add("--name", help="of the model or arm (default: the clips' folder)")
    add("--seed", type=int, help="the training or sampling seed, where a model has several runs")
    add("--benchmark", default="", help="name of the set of prompts; others are never ranked with it")
    add("--weights", metavar="DIR", help=WEIGHTS_HELP)
    add("--crops", action="store_true", help="the clips are face crops of 224x224 at 25 fps already")
    add(
        "--detector",
        default="s3fd",
        metavar="DETECTOR",
        choices=["s3fd", "ultraface"],
        help="what finds faces for sync: s3fd as published, or ultraface, a variant (default: s3fd)",
    )
    add("--limit", type=int, metavar="N", help="the first N clips only; not comparable, and marked so")
    add("--strict", action="store_true", help="stop at the first clip that cannot be scored")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--workers", type=int, default=1, help="threads that decode ahead (default: 1; 0: none)")
    add("--cache", metavar="DIR", help="folder of features (default: $OVI_EVAL_CACHE, ~/.cache/ovi_eval)")
    add("--no-cache", action="store_true", help="compute every feature anew, keep none")
    add("--no-intervals", action="store_true", help="leave the bootstrap intervals out")


def run(options: argparse.Namespace) -> None:
    """Scores, prints a table, writes results.json and its per-clip values."""
    if Path(options.out).is_dir():
        raise UserError(
            f"{options.out}: is a folder; name the file the results go to, as {options.out}/results.json"
        )
    use_weights(options.weights)
    if options.transcripts:
        if not Path(options.transcripts).is_file():
            raise UserError(f"--transcripts {options.transcripts}: no such file")
        os.environ["OVI_EVAL_TRANSCRIPTS"] = str(Path(options.transcripts).resolve())
    from ovi_eval.common import processes
    from ovi_eval.report.run_scores import show_run
    from ovi_eval.scoring.score_clips import Asked, score_clips

    chosen = {name: value for name, value in vars(options).items() if name in Asked.__dataclass_fields__}
    asked = Asked(**{**chosen, "metrics": names_of(options.metrics, "--metrics")})
    with processes.together():
        first = processes.rank() == 0
        with progress_bar(first) as bar:
            results, scored, absent = score_clips(asked, Path(options.out).parent, step_of(bar))
        if first:
            path = results.write(options.out)
            show_run(results, scored, absent)
            print(path)
            # on stderr: what is printed ends with the file's name
            folder = shlex.quote(str(Path(options.out).parent))
            measured = sum(metric.value is not None for metric in results.metrics.values())
            clips = f"{results.n_clips} clip{'s' * (results.n_clips != 1)}"
            print(
                f"{measured} of {len(results.metrics)} metrics have a value; {clips} in all\n"
                f"next: ovi-eval leaderboard {folder}",
                file=sys.stderr,
            )


def step_of(bar: Progress) -> Step:
    """Shows progress as a line of the bar for each set of clips that is scored."""
    tasks: dict[str, Any] = {}

    def step(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done)

    return step


@contextmanager
def progress_bar(shown: bool = True) -> Iterator[Progress]:
    """A bar on the terminal for as long as the block lasts."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    what = TextColumn("{task.description}", markup=False)
    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not shown) as bar:
        yield bar
