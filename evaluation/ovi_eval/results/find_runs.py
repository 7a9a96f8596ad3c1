"""Finds the runs below some folders, and says which are missing or unfinished."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovi_eval.common.places import inside
from ovi_eval.errors import UserError
from ovi_eval.results.files import LEADERBOARD_SCHEMA, SCHEMA, RunResults, load_json
from ovi_eval.results.reading import read

TASKS = "tasks"
"""Folder of a run that holds a folder with results for each further task that the run was evaluated on."""
MOST_RUNS = 2000
"""Runs that one leaderboard or comparison may have."""
TRAINED = "trained"
"""Folder of a sweep with its training runs, where other runs are evaluations of those."""
_SKIPPED = {"checkpoints", "clips", "samples", TRAINED, "__pycache__"}
"""Folders that hold no runs with results, and may be large."""
_OUTSIDE = "a link that leads outside of the folder that was named; name what it leads to"


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
    """Aggregates (results.json of a study) met on the way: not runs, yet they hold how the study is shown."""


def find_runs(paths: Sequence[str | Path]) -> FoundRuns:
    """Walks studies, run folders and results files; the runs come in the order of `paths`, inside a folder
    by name.

    A run folder (one with a config.yaml, or named seed_*) without results, or whose results cannot be read,
    is listed in `missing`; a results file that was named itself must be sound. Of a run with results only the folder
    `tasks` is walked, for the results of further tasks. A folder that holds no run folder gives the results files
    in it, whatever their names. Links that lead outside of the path that was named are not followed and are listed
    in `missing`. Raises UserError for a path that does not exist and for more than
    MOST_RUNS runs.
    """
    found = FoundRuns([], [], [])
    seen: set[Path] = set()
    for given in paths:
        path = Path(given)
        walk = _Walk(path, found, seen)
        if path.is_file():
            walk.file(path)
        elif path.is_dir():
            if not walk.folder(path):
                walk.files_side_by_side()
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

    def file(self, path: Path) -> None:
        if path.resolve() not in self.seen:
            self.seen.add(path.resolve())
            self.found.runs.append(read(path))

    def files_side_by_side(self) -> None:
        """Results files in the root itself, as `--out results/my_model.json` leaves them."""
        for path in sorted(self.root.glob("*.json"), key=natural_key):
            if inside(self.root, path) is None:
                self._miss(path, _OUTSIDE)
            elif load_json(path).get("schema") == SCHEMA:
                self.file(path)

    def folder(self, folder: Path) -> bool:
        """Whether the folder, or one below it, has a run, finished or not, or a leaderboard."""
        real, results = inside(self.root, folder), folder / "results.json"
        if real is None:
            return self._miss(folder, _OUTSIDE)
        if real in self.walked:
            return False
        self.walked.add(real)
        if results.is_file():
            if results.resolve() in self.seen:
                return True
            self.seen.add(results.resolve())
            if inside(self.root, results) is None:
                return self._miss(folder, f"results.json: {_OUTSIDE}")
            try:
                if load_json(results).get("schema") != LEADERBOARD_SCHEMA:
                    self.found.runs.append(read(results))
                    if (folder / TASKS).is_dir():
                        self.folder(folder / TASKS)
                    return True
            except UserError as error:
                return self._miss(folder, str(error).removeprefix(f"{results}: "))
            self.found.leaderboards.append(results)
        below = [self.folder(child) for child in _children(folder)]
        if any(below) or results.is_file():
            return True
        if (folder / "config.yaml").is_file() or folder.name.startswith("seed_"):
            return self._miss(folder, "not finished: it has no results.json yet")
        return False

    def _miss(self, folder: Path, reason: str) -> Literal[True]:
        self.found.missing.append(MissingRun(folder, reason))
        return True


def _children(folder: Path) -> list[Path]:
    try:
        folders = [path for path in folder.iterdir() if path.is_dir() and path.name not in _SKIPPED]
        # a run's link to its newest checkpoint, which has a configuration too
        folders = [path for path in folders if not (path.name == "last" and path.is_symlink())]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error})") from error
    return sorted((path for path in folders if not path.name.startswith(".")), key=natural_key)


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts seed_2 before seed_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
