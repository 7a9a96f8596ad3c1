"""The end of a sweep: reference rows, and one leaderboard of all arms."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ovi_eval.common.files import write_whole
from ovi_lab.common.following import sampling, typed
from ovi_lab.errors import UserError
from ovi_lab.sweeps.varied import axes_of

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


@dataclass(frozen=True)
class EndedSweep:
    """The jobs of a sweep. `varied`: the settings that they differ in, with their values. `own`: they are those of the
    experiment's own study, or some of them.
    """

    jobs: Sequence[SweepJob] = ()
    varied: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own: bool = True


_sweeps: dict[Path, EndedSweep] = {}


def note_jobs(folder: Path, jobs: Sequence[SweepJob], varied: Mapping[str, Sequence[str]], own: bool) -> None:
    """Hand a sweep's jobs to `finish`, and list them in a readable file in the sweep's folder."""
    _sweeps[folder] = EndedSweep(jobs, varied, own)
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

    They are of the sweep that the experiment asks for. Another sweep on the same experiment (other arms, a setting that
    the study does not vary) has a leaderboard without them.

    Args:
        title, message: at the top of the page.
        claims: the claims that the numbers are tested against; see `ovi_eval.ranking.claims.parse_claims`.
        drawn: ids of the figure's columns, such as `ball/onset_f1 on joint`; none: all.
        x: one or two settings with numbers that curves are drawn over; none: as `varied.axes_of` chooses.
        by: settings that tell curves apart.
        paper: the paper's values of settings, marked on curves.
        more_seeds: seeds that are added, after the study's own, to the arms of claims that these leave open: that are
            not shown, and that no whole interval speaks against. A sweep with fewer seeds than the study's has none.
    """

    def __init__(
        self,
        title: str = "Leaderboard",
        message: str = "",
        claims: Sequence[Any] = (),
        drawn: Sequence[str] = (),
        x: Sequence[str] = (),
        by: Sequence[str] = (),
        paper: Mapping[str, float] | None = None,
        more_seeds: Sequence[int] = (),
    ) -> None:
        plain: Any = OmegaConf.to_container(claims, resolve=True) if OmegaConf.is_config(claims) else claims
        self.title, self.message, self.claims = title, message, list(plain)
        self.drawn = [str(name) for name in drawn]
        self.x, self.by = [str(key) for key in x], [str(key) for key in by]
        self.more_seeds = list(more_seeds)
        self.paper = {str(key): float(value) for key, value in (paper or {}).items()}

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra's signal that all jobs were launched and have ended."""
        _ended.append((Path(str(config.hydra.sweep.dir)).absolute(), self))


# Hydra turns errors of its callbacks into warnings; so they only store what `finish` does, whose errors count.
_ended: list[tuple[Path, StudyCallback]] = []


def _scored(jobs: Sequence[SweepJob]) -> Sequence[SweepJob]:
    """The jobs that are ranked: where some are scored, the others are there to begin from."""
    return [job for job in jobs if (job.config.get("evaluation") or {}).get("enabled")] or jobs


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
    lines = [page if board.sweep is not None else _numbers(board, page)]
    for job in _scored(jobs):
        last = Path(job.config.get("trained") or job.run_dir) / "last"
        if last.exists():
            prompt = next((str(p) for p in job.config["samples"]["prompts"] if str(p).strip()), "…")
            latents = not (last / "codec.safetensors").is_file()
            return [*lines, f"next: {sampling(typed(last), prompt, latents)}"]
    return lines


def _numbers(board: Leaderboard, page: str) -> str:
    metric = next((column.id for column in board.columns), "")
    numbers = [f"{row.cells[metric].value:.3g} {row.name}" for row in board.arms if metric in row.cells]
    return f"{page}: {metric} {', '.join(numbers)}" if numbers else page


def finish() -> None:
    """Build the leaderboard of every sweep that has ended.

    Raises:
        UserError: runs of it have failed (after the rest has been shown), or nothing can be ranked.
    """
    from ovi_eval.report import write_all
    from ovi_eval.report.terminal import show

    while _ended:
        folder, study = _ended.pop()
        sweep = _sweeps.pop(folder, EndedSweep())
        jobs = sweep.jobs
        failed = {job.name: job for job in jobs if job.status == "failed"}
        places = [job.run_dir / "results.json" for job in jobs] or folder.rglob("results.json")
        if any(place.is_file() for place in places):
            _score_references(folder, jobs)
            board = board_of(study, sweep, folder, failed.values())
            print("drawing the leaderboard", file=sys.stderr)
            write_all(board, folder, progress=True, drawn=study.drawn if sweep.own else ())
            show(board)
            print("", *_ending(board, folder, jobs), sep="\n", flush=True)
        elif len(failed) < len(jobs) or not jobs:
            print(
                f"{typed(folder)}: no leaderboard, as no run was evaluated (evaluation=ball does)", flush=True
            )
        if failed:
            raise UserError(
                f"{len(failed)} of {len(jobs)} runs failed; the same command runs them again. "
                + "; ".join(f"{name}: {job.message}" for name, job in failed.items())
            )


def board_of(
    study: StudyCallback, sweep: EndedSweep, folder: Path, failed: Iterable[SweepJob] = ()
) -> Leaderboard:
    """The leaderboard of these jobs, and of no other runs in the folder; as curves where the sweep varies a number."""
    from ovi_eval.ranking.leaderboard import build_leaderboard
    from ovi_eval.ranking.sweep import Axes

    failures = {(job.config["arm_name"], job.config["seed"]): job.message for job in failed}
    jobs = _scored(sweep.jobs)
    arms = list(dict.fromkeys(job.config["arm_name"] for job in jobs))
    places = [job.run_dir for job in jobs] + [folder / "references"] if jobs else [folder]
    build = partial(
        build_leaderboard,
        [place for place in places if place.is_dir()],
        first=arms[0] if arms and not failures else None,
        order=arms,
        expected=[(job.config["arm_name"], job.config["seed"]) for job in jobs],
        failed=failures,
        **_words(study, sweep, folder),
    )
    if sweep.own and study.x:
        axes: Axes | None = Axes(study.x, study.by, study.paper)
    else:
        axes = axes_of(sweep.varied, study.paper)
    if axes is None:
        return build()
    try:
        return build(axes=axes)
    except UserError as error:
        # what has been trained is shown all the same
        board = build()
        return replace(board, problems=[*board.problems, f"no curve: {error}"])


def _words(study: StudyCallback, sweep: EndedSweep, folder: Path) -> dict[str, Any]:
    """Title, message and claims: the study's on its own sweep; on another one what it varies, and no claims."""
    if sweep.own:
        return {"title": study.title, "message": study.message, "claims": study.claims}
    keys = [key for key in sweep.varied if key != "seed"] or list(sweep.varied)
    title = f"{folder.name} over {' and '.join(keys)}" if keys else folder.name
    return {"title": title, "message": "", "claims": ()}
