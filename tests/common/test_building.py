"""Nodes of a configuration that cannot be built say so before anything is called."""

import pytest
from omegaconf import OmegaConf

from ovi_lab.common.building import build
from ovi_lab.errors import UserError


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({"_target_": "nope.Nope"}, "data._target_ is 'nope.Nope': there is nothing of that name"),
        ({"_target_": "ovi_lab.nope"}, "data._target_ is 'ovi_lab.nope': there is nothing"),
        ({"_target_": "ovi_lab.errors"}, "data._target_ is 'ovi_lab.errors', which cannot be called"),
        ({"_target_": ""}, "data._target_ is '': there is nothing"),
        ({"_target_": 3}, "data._target_ is 3: there is nothing"),
        (
            {"_target_": "ovi_lab.flow.TimestepSampler", "distribuion": "x"},
            "takes no 'distribuion', did you mean distribution?",
        ),
        ({"_target_": "ovi_lab.optim.Muon", "_partial_": True, "x": 1}, "unknown key 'data.x'"),
        ({"a": [{"_target_": "ovi_lab.optim.Muon", "x": 1}]}, "unknown key 'data.a[0].x'"),
        ({"_target_": "ovi_lab.models.TwinDiT"}, "data.video is not given"),
        ({"_target_": "ovi_lab.flow.TimestepSampler", "distribution": "sideways"}, "sideways"),
    ],
)
def test_what_cannot_be_built_is_one_line(node, line):
    with pytest.raises(UserError) as told:
        build(OmegaConf.create(node), "data")
    assert line in str(told.value)
    assert "\n" not in str(told.value)


def test_what_can_be_built_is_and_a_fault_inside_keeps_its_traceback():
    assert build(OmegaConf.create({"_target_": "builtins.dict", "a": 1}), "x") == {"a": 1}
    partial = build(
        OmegaConf.create({"_target_": "ovi_lab.optim.Muon", "_partial_": True, "lr": 0.1}), "optim"
    )
    assert partial.keywords == {"lr": 0.1}
    with pytest.raises(Exception, match="division") as raised:
        build(OmegaConf.create({"_target_": "operator.truediv", "_args_": [1, 0]}), "x")
    assert not isinstance(raised.value, UserError)
