"""ovi-eval: scores clips, ranks runs, lists metrics. Bad input ends with one line on stderr and code 2."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ovi_eval import __version__
from ovi_eval.errors import EvalError

if TYPE_CHECKING:
    from rich.progress import Progress

    from ovi_eval.results import RunResults


class _Parser(argparse.ArgumentParser):
    """argparse in one line, with the nearest names for one that is unknown."""

    def error(self, message: str) -> NoReturn:
        raise EvalError(f"{' '.join(message.split())}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = difflib.get_close_matches(str(value), list(map(str, action.choices)), n=3, cutoff=0.5)
            offer = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(action.choices)}"
            raise EvalError(f"{action.metavar or action.dest} {value!r} is unknown; {offer}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, or 2 for bad input and 130 where it was interrupted."""
    try:
        options = _parser().parse_args(argv)
        options.run(options)
    except (EvalError, OSError) as error:
        print(f"ovi-eval: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ovi-eval: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ovi-eval", description="Score clips of video and sound, and rank what was scored.")
    parser.add_argument("--version", action="version", version=f"ovi-eval {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    score = commands.add_parser("score", help="score clips with the ball world's metrics")
    score.add_argument("clips", help="a clips.safetensors, or a folder of mp4 files with captions")
    score.add_argument("--reference", help="real clips, for the Fréchet distances")
    score.add_argument("--out", default="results.json", help="where the results go (default: results.json)")
    score.add_argument(
        "--metrics", help="names of metrics, with commas between (default: all that can be had)"
    )
    score.add_argument("--name", help="of the model or arm (default: the clips' folder)")
    score.add_argument("--seed", type=int, help="the training seed, where there are several runs of a model")
    score.add_argument("--strict", action="store_true", help="stop at the first clip that cannot be read")
    score.set_defaults(run=_score)

    board = commands.add_parser("leaderboard", help="rank runs: table, Markdown, figure, HTML page")
    board.add_argument("runs", nargs="+", help="study folders, run folders or results files")
    board.add_argument("--out", help="folder to write to (default: the study's own, if one folder is named)")
    board.add_argument("--first", help="the arm that the others are compared with")
    board.add_argument("--order", help="arms in the order to show them, with commas between")
    board.add_argument("--title", help="heading of the page")
    board.add_argument("--message", help="a sentence under the heading")
    board.add_argument("--claims", help="YAML or JSON file of claims to be held against the numbers")
    board.add_argument(
        "--with",
        dest="beside",
        metavar="WHAT",
        choices=["published"],
        help="published: also show numbers that others published, with their sources, unranked",
    )
    board.set_defaults(run=_leaderboard)

    metrics = commands.add_parser("metrics", help="list the metrics: direction, version, what each needs")
    metrics.set_defaults(run=_metrics)
    return parser


def _score(options: argparse.Namespace) -> None:
    from ovi_eval.folders import read_clips
    from ovi_eval.record import run_results
    from ovi_eval.registry import find, published_among
    from ovi_eval.score import score_clips

    wanted = _listed(options.metrics)
    folders = [p for p in (options.clips, options.reference) if p and Path(p).is_dir()]
    if folders and (published := published_among(wanted)):
        # Files of a folder are read at the made-up world's 16x16 and 8 kHz: a published number of that would be wrong.
        raise EvalError(
            f"{published[0]} looks at full pictures and sound, and a folder such as {folders[0]} is read small here; "
            "give a clips.safetensors of the clips as they are"
        )
    find(wanted)  # an unknown name is told before minutes of decoding
    if Path(options.out).is_dir():
        raise EvalError(
            f"{options.out}: is a folder; name the file the results go to, as {options.out}/results.json"
        )
    with _progress() as bar:
        sets = []
        for path in filter(None, (options.clips, options.reference)):
            task = bar.add_task(f"reading {path}", total=None)

            def read(done: int, total: int, task: Any = task) -> None:
                bar.update(task, completed=done, total=total)

            sets.append(read_clips(path, options.strict, read))
        tasks: dict[str, Any] = {}

        def scored_so_far(metric: str, done: int, total: int) -> None:
            if metric not in tasks:
                tasks[metric] = bar.add_task(metric, total=total)
            bar.update(tasks[metric], completed=done)

        scored = score_clips(sets[0], sets[1] if len(sets) > 1 else None, wanted, progress=scored_so_far)
    clips = Path(options.clips).resolve()
    results = run_results(
        sets[0],
        scored,
        name=options.name or (clips.parent.name if clips.is_file() else clips.name),
        seed=options.seed,
        provenance={"clips": options.clips, "reference": options.reference or "none"},
    )
    path = results.write(options.out)
    _show_run(results, scored.failed)
    print(path)


def _show_run(results: RunResults, failed: dict[int, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ovi_eval.claims import format_number
    from ovi_eval.report.terminal import new_console

    table = Table("metric", "", "value", "clips", "coverage", "unit", title=Text(results.label()))
    arrows = {"higher": "↑", "lower": "↓", "closer_to_reference": "→ref"}
    for key, m in results.metrics.items():
        value = "–" if m.value is None else format_number(m.value)
        table.add_row(
            Text(key), arrows[m.direction], value, str(m.n), f"{100 * m.coverage:.0f} %", Text(m.unit)
        )
    console = new_console()
    console.print(table)
    if failed:
        first = next(iter(failed.values()))
        console.print(
            f"{len(failed)} of {results.n_clips} clips could not be scored in full, as: {first}", markup=False
        )


def _leaderboard(options: argparse.Namespace) -> None:
    from ovi_eval import leaderboard
    from ovi_eval.references.published import published_tables
    from ovi_eval.report.terminal import show

    out = options.out
    folder = Path(options.runs[0])
    single = len(options.runs) == 1 and folder.is_dir() and not _is_run(folder)
    if out is None and single:
        out = folder
    board = leaderboard.build(
        options.runs,
        out,
        first=options.first,
        title=options.title,
        message=options.message,
        order=_listed(options.order),
        claims=_claims(options.claims),
        published=published_tables() if options.beside else (),
        progress=True,
    )
    show(board)
    print(
        f"{Path(out) / 'leaderboard.html'}" if out is not None else "nothing was written: pass --out FOLDER"
    )


def _is_run(folder: Path) -> bool:
    """Whether a folder's results.json is that of one run, which a leaderboard must not replace."""
    from ovi_eval.results import LEADERBOARD_SCHEMA, load_json

    path = folder / "results.json"
    return path.is_file() and load_json(path).get("schema") != LEADERBOARD_SCHEMA


def _claims(path: str | None) -> list[Any] | None:
    """Claims of a file: a list, or an object with a list under `claims`."""
    if path is None:
        return None
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvalError(f"{path}: is neither YAML nor JSON ({error})") from None
    if isinstance(data, dict):
        data = data.get("claims")
    if not isinstance(data, list):
        raise EvalError(f"{path}: expected a list of claims, or one under the key claims")
    return data


def _metrics(options: argparse.Namespace) -> None:
    from rich import box
    from rich.table import Table

    from ovi_eval.metrics.base import FrechetMetric
    from ovi_eval.registry import METRICS
    from ovi_eval.report.terminal import new_console

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for head in ("metric", "value", "best", "unit", "version", "needs"):
        table.add_column(head)
    for name, metric in METRICS.items():
        needs = ["judges"] if metric.needs_judges else []
        needs += ["reference"] if issubclass(metric, FrechetMetric) else []
        for number, spec in enumerate(metric.values):
            best = spec.direction.replace("_", " ")
            told = [name, metric.version, ", ".join(needs)] if number == 0 else ["", "", ""]
            table.add_row(told[0], spec.key, best, spec.unit, told[1], told[2])
    console = new_console()
    console.print(table)
    print("judges: small networks that come with the package; reference: real clips, by --reference")


def _listed(text: str | None) -> list[str] | None:
    """Names with commas between; None where nothing was given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise EvalError(f"expected names with commas between, found {text!r}")
    return names


@contextmanager
def _progress() -> Iterator[Progress]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        yield bar


if __name__ == "__main__":
    sys.exit(main())
