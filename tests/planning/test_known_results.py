"""Operations on the meta device that are not computed again: the same tensors, and the same memory, as if they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.small_presets import GUIDED, make_preset
from ovi_lab.models import TwinDiT
from ovi_lab.planning import known_results, live_memory, sampling_parts
from ovi_lab.planning.activations import META, Pass, measure
from ovi_lab.planning.asked import AskedOf
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.known_results import on_meta

aten = torch.ops.aten


class Watched:
    """An operator that counts its calls."""

    def __init__(self, func: Any) -> None:
        self.func, self._schema, self.calls = func, func._schema, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.func(*args, **kwargs)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_results, "_known", {})


def forms(out: Any) -> list[Any]:
    several = out if isinstance(out, tuple) else (out,)
    return [(t.shape, t.stride(), t.dtype, t.storage_offset(), t.untyped_storage().nbytes()) for t in several]


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.mul.Tensor, (meta(3, 4), meta(4))),
        (aten.mul.Tensor, (meta(3, 4).t(), 2.0)),
        (aten.mm.default, (meta(3, 4), meta(4, 5))),
        (aten.cat.default, ([meta(3, 4), meta(2, 4)], 0)),
        (aten.native_layer_norm.default, (meta(3, 4), [4], None, None, 1e-5)),
        (aten.convolution.default, (meta(1, 2, 9), meta(3, 2, 3), None, [1], [1], [1], False, [0], 1)),
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else "",
)
def test_a_known_result_is_a_new_tensor_of_the_same_form(func: Any, args: Any) -> None:
    watched = Watched(func)
    first, again = on_meta(watched, args, {}), on_meta(watched, args, {})
    assert watched.calls == 1
    assert forms(first) == forms(again) == forms(func(*args))
    tensors = [t for out in (first, again) for t in (out if isinstance(out, tuple) else (out,))]
    assert len({t.untyped_storage()._cdata for t in tensors}) == len(tensors)


def test_numbers_that_are_equal_and_of_different_types_are_different_arguments() -> None:
    whole = meta(3, dtype=torch.int64)
    types = [on_meta(aten.add.Tensor, (whole, value), {}).dtype for value in (1, 1.0, 1, 1.0)]
    assert types == [torch.int64, torch.float32] * 2
    assert on_meta(aten.sum.default, (whole > 0,), {}).dtype == torch.int64
    assert on_meta(aten.sum.default, (whole > 0,), {"dtype": torch.float32}).dtype == torch.float32


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.view.default, (meta(3, 4), [12])),
        (aten._unsafe_view.default, (meta(3, 4), [12])),  # says that it returns a new tensor
        (aten.expand.default, (meta(1, 4), [3, 4])),
        (aten.add_.Tensor, (meta(3, 4), 1)),
        (aten.split.Tensor, (meta(4, 4), 2)),
        (aten.add.Tensor, (torch.zeros(3), torch.zeros(3))),
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else "",
)
def test_views_changes_and_values_are_computed_each_time(func: Any, args: Any) -> None:
    storage, watched = args[0].untyped_storage()._cdata, Watched(func)
    for _ in range(3):
        out = on_meta(watched, args, {})
        several = out if isinstance(out, tuple | list) else (out,)
        if args[0].is_meta:
            assert {t.untyped_storage()._cdata for t in several} == {storage}
        else:
            assert torch.equal(out, torch.zeros(3))
    assert watched.calls == 3


@pytest.mark.slow
def test_plans_are_those_of_operations_that_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    preset, size = make_preset(32, 2, frames=2, audio=8), (32, 64)
    tower = {"dim": 32, "num_heads": 2, "num_layers": 2, "ffn_dim": 64, "text_len": 5, "text_dim": 8}

    def numbers() -> list[Any]:
        with META:
            model = TwinDiT(tower | {"in_dim": 4}, tower | {"in_dim": 3}, activation_checkpointing="matmul")
        return [
            sampling_parts.towers_work(preset, size, torch.bfloat16, GUIDED, asked=AskedOf(leads=((2, 0),))),
            sampling_parts.picture_footprint(preset, size, torch.float32),
            measure(model, Pass(ClipShape((3, 4, 6), 20), 2, autocast=torch.bfloat16)),
        ]

    known = numbers()
    monkeypatch.setattr(live_memory, "on_meta", lambda func, args, kwargs: func(*args, **kwargs))
    assert known == numbers()
