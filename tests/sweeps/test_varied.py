"""What a sweep varies, and whether it is a study's own."""

import pytest
from hydra import compose
from omegaconf import OmegaConf

from ovi_lab.common.command_line import composing
from ovi_lab.common.paths import config_dir
from ovi_lab.sweeps.varied import axes_of, is_own, values_of, varied_values

STUDY = {"arm": ["scaled", "none"], "seed": ["0", "1"]}


def jobs(arms, seeds=("0",), *more):
    return [[f"arm={arm}", f"seed={seed}", *more] for arm in arms for seed in seeds]


@pytest.mark.parametrize(
    ("overrides", "own"),
    [
        (jobs(["scaled", "none"], ("0", "1")), True),
        (jobs(["scaled", "none"], ("7", "8")), True),
        (jobs(["none"]), True),
        (jobs(["scaled", "none"], ("0",), "trainer.max_steps=5"), True),
        (jobs(["scaled", "other"]), False),
        (jobs(["other"]), False),
        ([["arm=none", "seed=0", f"rope.factor={factor}"] for factor in (0.1, 0.2)], False),
        ([["arm=none", "seed=0", f"+new.key={value}"] for value in (1, 2)], False),
    ],
)
def test_a_study_stays_itself_in_part_and_with_other_seeds_and_nothing_else(overrides, own):
    assert is_own(overrides, STUDY) == own
    assert not is_own(overrides, {})  # without a study of its own there are no claims


def test_the_values_of_a_study_are_those_that_its_jobs_get():
    with composing(config_dir()):
        config = compose("train", overrides=["experiment=solver"], return_hydra_config=True)
    values = values_of(config.hydra.sweeper)
    assert values["sampler.solver"] == ["unipc", "dpm++", "euler"]
    assert values["sampler.shift"] == ["1", "3", "5"]
    assert values_of(OmegaConf.create({"params": {"a": 5}})) == {"a": ["5"]}
    assert values_of(OmegaConf.create({"params": None})) == {}


def test_numbers_are_axes_and_the_rest_tells_curves_apart():
    varied = varied_values(
        [
            [f"arm={arm}", f"sampler.shift={shift}", f"sampler.steps={steps}", f"seed={seed}", "name=x"]
            for arm in "ab"
            for shift in (1, 5)
            for steps in (2, 4, 8)
            for seed in (0, 1)
        ]
    )
    axes = axes_of(varied, {"sampler.shift": 5.0, "rope.factor": 0.2})
    assert (axes.x, axes.by, axes.paper) == (
        ["sampler.steps", "sampler.shift"],
        ["arm"],
        {"sampler.shift": 5.0},
    )
    third = axes_of({**varied, "rope.factor": ["0.1", "0.2"]}, {})
    assert (third.x, third.by) == (["sampler.steps", "sampler.shift"], ["arm", "rope.factor"])
    assert axes_of({"arm": ["a", "b"], "seed": ["0", "1"]}, {}) is None
    assert axes_of({"rope.factor": ["0.1", "learned"]}, {}) is None
    assert axes_of({"x": ["1", "nan"]}, {}) is None
