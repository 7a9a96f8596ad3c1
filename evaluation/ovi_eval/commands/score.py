"""`ovi-eval score`: clips to results.json."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovi_eval.commands.options import WEIGHTS_HELP, names_of, use_weights
from ovi_eval.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from ovi_eval.clips.items import Item
    from ovi_eval.metrics.base import ItemMetric
    from ovi_eval.results.files import RunResults
    from ovi_eval.scoring.results_of import Progress as Step
    from ovi_eval.scoring.results_of import Scored


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
    for name, least in (("limit", 1), ("workers", 0)):
        given = getattr(options, name)
        if given is not None and given < least:
            raise UserError(f"--{name} must be {least} or more, got {given}")
    use_weights(options.weights)
    if options.transcripts:
        if not Path(options.transcripts).is_file():
            raise UserError(f"--transcripts {options.transcripts}: no such file")
        os.environ["OVI_EVAL_TRANSCRIPTS"] = str(Path(options.transcripts).resolve())
    from ovi_eval.common import processes

    with processes.together():
        _score_together(options)


def _score_together(options: argparse.Namespace) -> None:
    from ovi_eval.clips.captions import read_caption_file
    from ovi_eval.clips.items import find_items, without_clip
    from ovi_eval.common import processes
    from ovi_eval.common.files import cache_folder
    from ovi_eval.report.run_scores import show_run
    from ovi_eval.scoring.feature_cache import FeatureCache
    from ovi_eval.scoring.runner import ScoringOptions, score_items

    names = names_of(options.metrics, "--metrics")
    # an unknown name is reported before minutes of decoding
    metrics = _find(names, options.crops, options.detector) if names else None
    device = processes.device_of(options.device)
    captions = read_caption_file(options.captions) if options.captions else None
    found = find_items(options.clips, captions)
    items, notes = found.items, found.notes + without_clip(captions or {}, found.items)
    if options.transcripts:
        from ovi_eval.metrics.transcripts import read_transcripts

        notes += without_clip(read_transcripts(options.transcripts), items, "transcripts")
    reference = None
    if options.reference:
        real = find_items(options.reference)
        reference, notes = real.items, notes + [f"reference: {note}" for note in real.notes]
    if options.limit and options.limit < len(items):
        notes.append(f"only the first {options.limit} of {len(items)} clips are scored: not comparable")
        items = items[: options.limit]
    else:
        options.limit = None
    absent: Sequence[str] = ()
    if metrics is None:
        metrics, absent = _available(items, options.crops, reference is not None)
    how = ScoringOptions(
        device=device,
        cache=None if options.no_cache else FeatureCache(options.cache or cache_folder()),
        workers=options.workers,
        resamples=not options.no_intervals,
        strict=options.strict,
        comparable=options.limit is None,
    )
    with progress_bar(processes.rank() == 0) as bar:
        scored = score_items(items, reference, metrics, how, step_of(bar))
    if processes.rank() == 0:
        results = _results(items, scored, options, notes)
        path = results.write(options.out)
        show_run(results, scored, absent)
        print(path)
        # on stderr: what is printed ends with the file's name
        folder = shlex.quote(str(Path(options.out).parent))
        measured = sum(metric.value is not None for metric in results.metrics.values())
        print(
            f"{measured} of {len(results.metrics)} metrics have a value; {results.n_clips} clips in all\n"
            f"next: ovi-eval leaderboard {folder}",
            file=sys.stderr,
        )


def _find(names: Sequence[str], crops: bool, detector: str) -> list[type[ItemMetric]]:
    from ovi_eval.registry import SYNC_BY_DETECTOR, find

    sync = "sync_crops" if crops else SYNC_BY_DETECTOR[detector]
    return find([sync if name in ("sync", "lse") else name for name in names])


def _available(
    items: Sequence[Item], crops: bool, reference: bool
) -> tuple[list[type[ItemMetric]], Sequence[str]]:
    """The metrics for these clips, and the names of those left out: the ball world's for the tensor file that its
    sampling writes, else the published ones.
    """
    from ovi_eval.clips.items import MemoryItem
    from ovi_eval.registry import available

    found, absent = available(reference, ball=isinstance(items[0], MemoryItem))
    found = [m for m in found if (m.name == "sync_crops") == crops or not m.name.startswith("sync")]
    if not found:
        first = next(iter(absent.values()), "")
        raise UserError(f"no metric is available here; {first}; ovi-eval metrics lists what each needs")
    return found, list(absent)


def _results(
    items: Sequence[Item], scored: Scored, options: argparse.Namespace, notes: Sequence[str]
) -> RunResults:
    from ovi_eval.common.places import shareable_path
    from ovi_eval.common.provenance import configuration_hash
    from ovi_eval.scoring.results_of import run_results

    clips, folder = Path(options.clips).resolve(), Path(options.out).parent
    # All that numbers may depend on, but for the clips themselves.
    made = {key: [score.version, score.variant, score.preprocessing] for key, score in scored.values.items()}
    choices = {
        "metrics": made,
        "limit": options.limit,
        "crops": options.crops,
        "benchmark": options.benchmark,
    }
    reference = shareable_path(options.reference, folder) if options.reference else "none"
    return run_results(
        items,
        scored,
        name=options.name or (clips.parent.name if clips.is_file() else clips.name),
        seed=options.seed,
        # Where files lie is private: names below the results' folder, else the folder's own name.
        provenance={"clips": shareable_path(clips, folder), "reference": reference},
        config_hash=configuration_hash(choices),
        notes=notes,
        benchmark=options.benchmark,
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
