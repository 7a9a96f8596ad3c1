"""Rows of pretrained weights: read and judged alone, whatever kind of source holds them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ovi_lab.adapters.merging import MergedWeights
from ovi_lab.checkpoints.init_from import Beginning
from ovi_lab.checkpoints.names import Renamed
from ovi_lab.errors import UserError
from ovi_lab.weights.tensor_files import TensorFiles


@pytest.fixture
def stored(tmp_path: Path) -> TensorFiles:
    generator = torch.Generator().manual_seed(0)
    base, A, B = (torch.randn(*shape, generator=generator) for shape in ((6, 4), (2, 4), (6, 2)))
    layer = {"x.base_layer.weight": base, "x.lora_A.default.weight": A, "x.lora_B.default.weight": B}
    save_file({"plain": torch.randn(6, 4, generator=generator), **layer}, tmp_path / "model.safetensors")
    return TensorFiles.open(tmp_path / "model.safetensors")


def test_rows_are_those_of_the_whole_tensor(stored: TensorFiles) -> None:
    sources = {
        "plain": stored,
        "other": Renamed(stored, {"other": "plain"}),
        "x.weight": MergedWeights(stored, {"rank": 2, "targets": ["x"]}),
    }
    for name, source in sources.items():
        whole = dict(source.stream([name]))[name]
        assert torch.equal(source.rows(name, 2, 5), whole[2:5])


def test_only_the_rows_that_are_read_are_judged(tmp_path: Path) -> None:
    weight = torch.ones(6, 4)
    weight[5, 0] = torch.nan
    save_file({"w": weight}, tmp_path / "model.safetensors")
    beginning = Beginning({"w": (TensorFiles.open(tmp_path / "model.safetensors"), "w")})
    assert torch.equal(beginning.value("w", slice(0, 3)), weight[:3])
    with pytest.raises(UserError, match="no finite numbers"):
        beginning.value("w", slice(3, 6))
