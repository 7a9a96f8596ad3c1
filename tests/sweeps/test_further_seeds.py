"""Further seeds of a study: which, and of which runs."""

from pathlib import Path

import pytest

from ovi_lab.errors import UserError
from ovi_lab.sweeps.further_seeds import seeds_to_add, with_seeds
from ovi_lab.sweeps.study import StudyCallback, SweepJob

FOLDER = Path("runs/study").absolute()
OWN = ["0", "1"]


def job(arm, seed, begins=None):
    source = {"video": f"runs/study/{begins}/seed_{seed}/last"} if begins else None
    config = {"arm_name": arm, "seed": seed, "trained": None, "init_from": source}
    return SweepJob(f"{arm}/seed_{seed}", config, FOLDER / arm / f"seed_{seed}")


JOBS = [
    one
    for seed in (0, 1)
    for one in (
        job("tower", seed),
        job("fused", seed, "tower"),
        job("plain", seed),
        job("longer", seed, "fused"),
    )
]
OVERRIDES = {
    one.name: [f"arm={one.config['arm_name']}", f"seed={one.config['seed']}", "lr=1"] for one in JOBS
}


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (["plain"], ["plain"]),
        (["fused"], ["tower", "fused"]),
        (["longer", "plain"], ["tower", "fused", "plain", "longer"]),
        ([], []),
        (["real"], []),  # a reference row has no runs
    ],
)
def test_the_arms_asked_for_and_those_that_they_begin_from(arms, expected):
    assert with_seeds(JOBS, OVERRIDES, arms, [5, 7]) == [
        [f"arm={arm}", "lr=1", f"seed={seed}"] for arm in expected for seed in (5, 7)
    ]


@pytest.mark.parametrize(
    ("swept", "more", "expected"),
    [
        (["0", "1"], [2, 3], [2, 3]),
        (["0", "1"], [1, 2], [2]),
        (["0"], [2, 3], []),  # a trial
        (["0", "1", "2"], [2, 3], []),  # seeds of the user's own
        (["0", "1"], [], []),
    ],
)
def test_seeds_are_added_to_the_whole_study_alone(swept, more, expected):
    overrides = [["arm=a", f"seed={seed}"] for seed in swept]
    assert seeds_to_add(StudyCallback(more_seeds=more), overrides, OWN) == expected
    assert seeds_to_add(StudyCallback(more_seeds=more), overrides, []) == []


@pytest.mark.parametrize("wrong", [["three"], [-1], [1.5], [True]])
def test_seeds_that_are_none_are_refused(wrong):
    with pytest.raises(UserError, match=r"more_seeds is .*; expected whole numbers of 0 or more"):
        seeds_to_add(StudyCallback(more_seeds=wrong), [["seed=0"]], OWN)
