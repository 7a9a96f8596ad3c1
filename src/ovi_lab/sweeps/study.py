"""The end of a sweep: reference rows, and one leaderboard of all arms."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ovi_eval.common.files import write_whole
from ovi_lab.common.following import sampling, typed
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

JOBS_FILE = "jobs.json"


@dataclass(frozen=True)
class SweepJob:
    """A member of a sweep."""

    name: str
    config: Mapping[str, Any]
    """The resolved configuration, composed from the command line; nothing is read from the run's folder."""
    run_dir: Path
    status: str = ""
    """"done", "skipped" or "failed" once it has ended."""
    message: str = ""


_jobs: dict[Path, Sequence[SweepJob]] = {}


def note_jobs(folder: Path, jobs: Sequence[SweepJob]) -> None:
    """Hand a sweep's jobs to `finish`, and list them in a readable file in the sweep's folder."""
    _jobs[folder] = jobs
    rows = [
        {
            "name": job.name,
            "arm": job.config["arm_name"],
            "seed": job.config["seed"],
            "run_dir": str(job.run_dir.relative_to(folder))
            if job.run_dir.is_relative_to(folder)
            else job.run_dir.name,
            "status": job.status,
            "message": job.message,
        }
        for job in jobs
    ]
    write_whole(folder / JOBS_FILE, json.dumps(rows, indent=1))


class StudyCallback(Callback):
    """Hydra's callback of a study: stores that a sweep has ended, and the title and claims of its leaderboard.

    Args:
        title, message: at the top of the page.
        claims: the claims that the numbers are tested against; see `ovi_eval.ranking.claims.parse_claims`.
        drawn: ids of the figure's columns, such as `ball/onset_f1 on joint`; none: all.
    """

    def __init__(
        self,
        title: str = "Leaderboard",
        message: str = "",
        claims: Sequence[Any] = (),
        drawn: Sequence[str] = (),
    ) -> None:
        plain: Any = OmegaConf.to_container(claims, resolve=True) if OmegaConf.is_config(claims) else claims
        self.title, self.message, self.claims = title, message, list(plain)
        self.drawn = [str(name) for name in drawn]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra's signal that all jobs were launched and have ended."""
        _ended.append((Path(str(config.hydra.sweep.dir)).absolute(), self))


# Hydra turns errors of its callbacks into warnings; so they only store what `finish` does, whose errors count.
_ended: list[tuple[Path, StudyCallback]] = []


def _score_references(folder: Path, jobs: Sequence[SweepJob]) -> None:
    """Score the reference rows (real clips, and real clips distorted on purpose) once per study, on its data."""
    from ovi_lab.runs.evaluate import evaluate_references

    for job in jobs:
        if job.status != "failed" and (job.run_dir / "results.json").is_file():
            print(
                "scoring the reference rows: real clips, and real clips distorted on purpose", file=sys.stderr
            )
            evaluate_references(OmegaConf.create(dict(job.config)), folder / "references")
            return


def _ending(board: Leaderboard, folder: Path, jobs: Sequence[SweepJob]) -> list[str]:
    """The last lines of a study: its page, its first number by arm, and the command that samples its first model."""
    page = typed(folder / "leaderboard.html")
    metric = next((column.id for column in board.columns), "")
    numbers = [f"{row.cells[metric].value:.3g} {row.name}" for row in board.arms if metric in row.cells]
    lines = [f"{page}: {metric} {', '.join(numbers)}" if numbers else page]
    for job in jobs:
        last = job.run_dir / "last"
        if last.exists():
            prompt = next((str(p) for p in job.config["samples"]["prompts"] if str(p).strip()), "…")
            latents = not (last / "codec.safetensors").is_file()
            return [*lines, f"next: {sampling(typed(last), prompt, latents)}"]
    return lines


def finish() -> None:
    """Build the leaderboard of every sweep that has ended.

    Raises:
        UserError: runs of it have failed (after the rest has been shown), or nothing can be ranked.
    """
    from ovi_eval.ranking.leaderboard import build_leaderboard
    from ovi_eval.report import write_all
    from ovi_eval.report.terminal import show

    while _ended:
        folder, study = _ended.pop()
        jobs = _jobs.pop(folder, ())
        failed = [f"{job.name}: {job.message}" for job in jobs if job.status == "failed"]
        arms = list(dict.fromkeys(job.config["arm_name"] for job in jobs))
        _score_references(folder, jobs)
        if len(failed) < len(jobs) or not jobs:
            board = build_leaderboard(
                [folder],
                first=arms[0] if arms and not failed else None,
                title=study.title,
                message=study.message,
                order=arms,
                claims=study.claims,
                expected=[(job.config["arm_name"], job.config["seed"]) for job in jobs],
            )
            print("drawing the leaderboard", file=sys.stderr)
            write_all(board, folder, progress=True, drawn=study.drawn)
            show(board)
            print("", *_ending(board, folder, jobs), sep="\n", flush=True)
        if failed:
            raise UserError(
                f"{len(failed)} of {len(jobs)} runs failed; the same command runs them again. "
                + "; ".join(failed)
            )
