"""Finds the runs below some folders, and says which are missing or unfinished."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovi_eval.common.places import inside
from ovi_eval.errors import UserError
from ovi_eval.results.files import LEADERBOARD_SCHEMA, SCHEMA, RunResults, load_json, read


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


MOST_RUNS = 2000
"""Runs that one leaderboard or comparison may have."""


def find_runs(paths: Sequence[str | Path]) -> FoundRuns:
    """Walks studies, run folders and results files; the runs come in the order of `paths`, inside a folder
    by name.

    A run folder (one with a config.yaml, or named seed_*) without results, or whose results cannot be read,
    is listed in `missing`; a results file that was named itself must be sound. A folder that holds no run
    folder gives the results files in it, whatever their names. Links that lead outside of the path that was named are
    not followed and are listed in `missing`. Raises UserError for a path that does not exist and for more than
    MOST_RUNS runs.
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
            _Walk(path, found, seen).folder(path)
            if len(found.runs) + len(found.missing) + len(found.leaderboards) + len(seen) == before:
                _files(path, found, seen)
        else:
            raise UserError(
                f"{path}: no such file or folder; name run folders, study folders or results.json files"
            )
        if len(found.runs) > MOST_RUNS:
            raise UserError(f"{path}: holds more than {MOST_RUNS} runs; name fewer of them")
    return found


class _Walk:
    """One path that was named, walked through: each real folder once, none outside of it."""

    def __init__(self, root: Path, found: FoundRuns, seen: set[Path]) -> None:
        self.root, self.found, self.seen = root, found, seen
        self.walked: set[Path] = set()

    def folder(self, folder: Path) -> None:
        real = inside(self.root, folder)
        if real is None:
            self.found.missing.append(MissingRun(folder, _OUTSIDE))
            return
        if real in self.walked:
            return
        self.walked.add(real)
        found, results = self.found, folder / "results.json"
        has_config = (folder / "config.yaml").is_file() or folder.name.startswith("seed_")
        if results.is_file():
            if results.resolve() in self.seen:
                return
            self.seen.add(results.resolve())
            if inside(self.root, results) is None:
                found.missing.append(MissingRun(folder, f"results.json: {_OUTSIDE}"))
                return
            try:
                if load_json(results).get("schema") == LEADERBOARD_SCHEMA:
                    found.leaderboards.append(results)
                else:
                    found.runs.append(read(results))
                    return
            except UserError as error:
                found.missing.append(MissingRun(folder, str(error).removeprefix(f"{results}: ")))
                return
        before = len(found.runs) + len(found.missing)
        for child in _children(folder):
            self.folder(child)
        if has_config and not results.is_file() and len(found.runs) + len(found.missing) == before:
            found.missing.append(MissingRun(folder, "not finished: it has no results.json yet"))


_OUTSIDE = "a link that leads outside of the folder that was named; name what it leads to"


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(
            (
                c
                for c in folder.iterdir()
                if c.is_dir() and c.name not in _SKIPPED and not c.name.startswith(".")
            ),
            key=natural_key,
        )
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _files(folder: Path, found: FoundRuns, seen: set[Path]) -> None:
    """Results files side by side in one folder, as `--out results/my_model.json` leaves them."""
    for path in sorted(folder.glob("*.json"), key=natural_key):
        if inside(folder, path) is None:
            found.missing.append(MissingRun(path, _OUTSIDE))
        elif path.resolve() not in seen and load_json(path).get("schema") == SCHEMA:
            seen.add(path.resolve())
            found.runs.append(read(path))


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts seed_2 before seed_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
