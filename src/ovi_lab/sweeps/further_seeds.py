"""Further seeds of a study whose first ones leave claims open: which runs of which arms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ovi_lab.errors import UserError
from ovi_lab.sweeps.order import needed_by
from ovi_lab.sweeps.study import EndedSweep, StudyCallback, SweepJob, board_of


def study_of(config: DictConfig) -> StudyCallback | None:
    """The study of a sweep's configuration; None where it has none."""
    node = OmegaConf.select(config, "hydra.callbacks.leaderboard")
    made = None if node is None else instantiate(node)
    return made if isinstance(made, StudyCallback) else None


def seeds_to_add(
    study: StudyCallback, overrides: Sequence[Sequence[str]], own_seeds: Collection[str]
) -> list[int]:
    """The seeds that an undecided study is given; none where the sweep has not all of its own: that is a trial.

    Args:
        study: with its `more_seeds`.
        overrides: of each job.
        own_seeds: of the study, as overrides have them.

    Raises UserError where `more_seeds` are no whole numbers of 0 or more.
    """
    if not all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in study.more_seeds):
        raise UserError(
            f"hydra.callbacks.leaderboard.more_seeds is {study.more_seeds}; expected whole numbers of 0 or more"
        )
    swept = {o.partition("=")[2] for own in overrides for o in own if _is_seed(o)}
    if not own_seeds or swept != set(own_seeds):
        return []
    return [seed for seed in study.more_seeds if str(seed) not in swept]


def open_claims(study: StudyCallback, sweep: EndedSweep, folder: Path) -> tuple[list[int], list[str]]:
    """The numbers of the claims that the runs leave open, from 1, and the arms that these compare."""
    try:
        findings = board_of(study, sweep, folder).findings
    except UserError:  # nothing can be ranked: `finish` says why
        return [], []
    claims = [number for number, finding in enumerate(findings, 1) if finding.open_arms]
    return claims, list(dict.fromkeys(arm for finding in findings for arm in finding.open_arms))


def with_seeds(
    jobs: Sequence[SweepJob],
    overrides: Mapping[str, Sequence[str]],
    arms: Collection[str],
    seeds: Sequence[int],
) -> list[list[str]]:
    """The overrides of the runs of some arms with other seeds, and of the runs that those begin from.

    Args:
        jobs: those of the first seeds.
        overrides: of each job, by its name.
        arms: of which more seeds are wanted.
        seeds: which.
    """
    wanted = {job.name for job in jobs if job.config["arm_name"] in arms}
    while more := {
        name for job in jobs if job.name in wanted for name in needed_by(job, jobs) if name not in wanted
    }:
        wanted |= more
    plain = [tuple(o for o in overrides[job.name] if not _is_seed(o)) for job in jobs if job.name in wanted]
    return [[*own, f"seed={seed}"] for own in dict.fromkeys(plain) for seed in seeds]


def _is_seed(override: str) -> bool:
    return override.partition("=")[0] == "seed"
