"""Finds the runs below some folders, and says which are missing or unfinished."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovi_eval.errors import EvalError
from ovi_eval.results import LEADERBOARD_SCHEMA, SCHEMA, RunResults, load_json, read


@dataclass(frozen=True)
class MissingRun:
    """A run that has a folder but no usable results: `reason` says which."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class FoundRuns:
    runs: list[RunResults]
    missing: list[MissingRun]
    leaderboards: list[Path]
    """Aggregates (results.json of a study) met on the way: not runs, yet they remember how the study is
    shown.
    """


# Folders that hold no runs and may be large.
_SKIPPED = {"checkpoints", "clips", "samples", "__pycache__"}


def find_runs(paths: Sequence[str | Path]) -> FoundRuns:
    """Walks studies, run folders and results files; the runs come in the order of `paths`, inside a folder
    by name.

    A run folder (one with a config.yaml, or named seed_*) without results, or whose results cannot be read,
    is listed in `missing`; a results file that was named itself must be sound. A folder that holds no run
    folder gives the results files in it, whatever their names. Raises EvalError for a path that does not exist.
    """
    found = FoundRuns([], [], [])
    seen: set[Path] = set()
    for given in paths:
        path = Path(given)
        if path.is_file():
            if path.resolve() not in seen:
                seen.add(path.resolve())
                found.runs.append(read(path))
        elif path.is_dir():
            before = len(found.runs) + len(found.missing) + len(found.leaderboards) + len(seen)
            _walk(path, found, seen)
            if len(found.runs) + len(found.missing) + len(found.leaderboards) + len(seen) == before:
                _files(path, found, seen)
        else:
            raise EvalError(
                f"{path}: no such file or folder; name run folders, study folders or results.json files"
            )
    return found


def _walk(folder: Path, found: FoundRuns, seen: set[Path]) -> None:
    results = folder / "results.json"
    has_config = (folder / "config.yaml").is_file() or folder.name.startswith("seed_")
    if results.is_file():
        if results.resolve() in seen:
            return
        seen.add(results.resolve())
        try:
            if load_json(results).get("schema") == LEADERBOARD_SCHEMA:
                found.leaderboards.append(results)
            else:
                found.runs.append(read(results))
                return
        except EvalError as error:
            found.missing.append(MissingRun(folder, str(error).removeprefix(f"{results}: ")))
            return
    children = sorted(
        (c for c in folder.iterdir() if c.is_dir() and c.name not in _SKIPPED and not c.name.startswith(".")),
        key=natural_key,
    )
    before = len(found.runs) + len(found.missing)
    for child in children:
        _walk(child, found, seen)
    if has_config and not results.is_file() and len(found.runs) + len(found.missing) == before:
        found.missing.append(MissingRun(folder, "not finished: it has no results.json yet"))


def _files(folder: Path, found: FoundRuns, seen: set[Path]) -> None:
    """Results files side by side in one folder, as `--out results/my_model.json` leaves them."""
    for path in sorted(folder.glob("*.json"), key=natural_key):
        if path.resolve() not in seen and load_json(path).get("schema") == SCHEMA:
            seen.add(path.resolve())
            found.runs.append(read(path))


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts seed_2 before seed_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
