"""No module reads a parameter of another one by name: ZeRO 3 would gather it then, and fail where its order changes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from torch import nn

from helpers.twin_goldens import tiny_batch, tiny_twin
from ovi_lab.models import Given

inside: list[nn.Module] = []
foreign: list[str] = []


class Watched(OrderedDict[str, Any]):
    """A module's parameters, which notes what is read while another module computes."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__(owner._parameters)
        self.owner, self.name = owner, name

    def __getitem__(self, key: str) -> Any:
        if inside and inside[-1] is not self.owner:
            foreign.append(f"{self.name}.{key} in {type(inside[-1]).__name__}")
        return super().__getitem__(key)


@pytest.mark.parametrize("choice", ["none", "full"])
def test_modules_read_their_own_parameters_alone(choice: str) -> None:
    model = tiny_twin(rope={"mode": "learned"}, activation_checkpointing=choice)
    for name, module in model.named_modules():
        if module._parameters:
            module._parameters = Watched(module, name)
        # as DeepSpeed has it: what a module computes is its own from before its forward pass to its end
        module.register_forward_pre_hook(lambda own, _: inside.append(own))
        module.register_forward_hook(lambda own, *_: None if inside.pop() is own else pytest.fail("order"))
    inside.clear()
    foreign.clear()
    batch = tiny_batch()
    out = model(**batch, given=Given.first_frame(batch["video"]))
    (out.video.square().mean() + out.audio.square().mean()).backward()
    assert not foreign
    assert any(p.grad is not None for p in model.parameters())
