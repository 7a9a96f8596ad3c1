"""The Python API of scoring: `ovi_eval.score`, what `ovi-eval score` does, with the results as an object."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovi_eval.commands.options import names_of
from ovi_eval.common import processes
from ovi_eval.common.needs import WEIGHTS_FOLDER
from ovi_eval.common.shown import did_you_mean
from ovi_eval.errors import UserError
from ovi_eval.metrics.transcripts import GIVEN
from ovi_eval.results.files import RunResults
from ovi_eval.scoring.score_clips import Asked, score_clips

__all__ = ["score"]


def score(
    clips: str | Path,
    *,
    reference: str | Path | None = None,
    metrics: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    **options: Any,
) -> RunResults:
    """Score clips; `results.metrics["fvd"].value` is a number, `.ci95` its interval, `results.clips` has each clip's.

    Args:
        clips: a folder of clips (mp4, wav, …), one file, or a clips.safetensors.
        reference: real clips, for the metrics that compare with such.
        metrics: names, or one text of names with commas between; None: all that are available here.
        out: file that the results are written to, as `ovi-eval leaderboard` reads them; None: none is written.
        weights: folder of the metrics' published weights; None: $OVI_EVAL_WEIGHTS.
        options: those of `ovi-eval score`: `captions`, `transcripts`, `name`, `seed`, `benchmark`, `crops`,
            `detector`, `limit`, `strict`, `device`, `workers`, `cache`, `no_cache`, `no_intervals`.

    Raises:
        UserError: a path, metric or option cannot be used, or no clip can be scored.
    """
    known = [name for name in Asked.__dataclass_fields__ if name not in ("clips", "reference", "metrics")]
    for name in options:
        if name not in known:
            offer = did_you_mean(name, known) or f"there are {', '.join(known)}"
            raise UserError(f"unknown option {name!r} of score; {offer}")
    if weights is not None and not Path(weights).is_dir():
        raise UserError(f"weights={weights}: no such folder")
    transcripts = options.get("transcripts")
    if transcripts is not None and not Path(transcripts).is_file():
        raise UserError(f"transcripts={transcripts}: no such file")
    if out is not None and Path(out).is_dir():
        raise UserError(f"out={out} is a folder; name the file the results go to, as {out}/results.json")
    names = names_of(metrics, "metrics") if isinstance(metrics, str) else metrics
    asked = Asked(clips, reference, names, **options)
    with _environment({WEIGHTS_FOLDER: weights, GIVEN: transcripts}), processes.together():
        results, *_ = score_clips(asked, Path(out or "results.json").parent, lambda what, done, total: None)
        if out is not None and processes.rank() == 0:
            results.write(out)
    return results


@contextmanager
def _environment(given: dict[str, str | Path | None]) -> Iterator[None]:
    """Paths as environment variables, which child processes see too, for as long as the block lasts."""
    before = {name: os.environ.get(name) for name, path in given.items() if path is not None}
    os.environ.update({name: str(Path(path).resolve()) for name, path in given.items() if path is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
