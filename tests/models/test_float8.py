"""Linear layers in fp8: the same names, rounding of its size, gradients for all; one line where it cannot be."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from helpers.twin_goldens import mean_squares, tiny_batch, tiny_twin
from ovi_lab.errors import UserError

HAS_TORCHAO = importlib.util.find_spec("torchao") is not None


@pytest.mark.skipif(not HAS_TORCHAO, reason="needs torchao (the extra quant)")
def test_products_are_rounded_to_fp8_and_all_else_stays() -> None:
    plain, rounded = (tiny_twin(spread=0.2, linear=choice) for choice in ("plain", "fp8_emulated"))
    assert list(rounded.state_dict()) == list(plain.state_dict())
    rounded.load_state_dict(plain.state_dict())
    assert sum(type(m).__name__ == "Float8Linear" for m in rounded.modules()) == 3 * 2 * 12
    want, got = (model(**tiny_batch()) for model in (plain, rounded))
    distance = ((got.video - want.video).norm() / want.video.norm()).item()
    assert 1e-3 < distance < 0.1
    mean_squares(got).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rounded.parameters())


@pytest.mark.skipif(HAS_TORCHAO, reason="torchao is there")
def test_without_torchao_one_line_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"model.linear=fp8_emulated needs torchao: pip install .*quant"):
        tiny_twin(linear="fp8_emulated")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp8_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="needs an NVIDIA GPU of compute capability"):
        tiny_twin(linear="fp8")
    with pytest.raises(UserError, match="expected plain, fp8 or fp8_emulated"):
        tiny_twin(linear="int4")
