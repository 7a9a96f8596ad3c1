"""Safetensors written one tensor at a time: what the library reads back, and what is refused."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ovi_lab.weights.writing import save_file

TENSORS = {
    "narrow": torch.arange(3).bfloat16(),
    "wide": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "scalar": torch.tensor(0.25),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "none": torch.empty(0, 4),
    "half": torch.arange(5).half(),
    "ünïcode": torch.ones(1),
}
WORDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
LISTING = {name: (WORDS[t.dtype], tuple(t.shape)) for name, t in TENSORS.items()}


def test_the_library_reads_what_was_written_in_any_order(tmp_path):
    for index, order in enumerate((list(TENSORS), list(TENSORS)[::-1])):
        file = tmp_path / f"{index}.safetensors"
        save_file(file, LISTING, ((name, TENSORS[name]) for name in order))
        held = load_file(file)
        assert held.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert held[name].dtype == tensor.dtype
            assert torch.equal(held[name], tensor)
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()


def test_what_is_not_as_listed_is_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="wide is \\[3, 2\\], expected \\[2, 3\\]"):
        save_file(file, LISTING, [("wide", TENSORS["wide"].T)])
    with pytest.raises(ValueError, match="wide is"):
        save_file(file, LISTING, [("wide", TENSORS["wide"].double())])
    with pytest.raises(ValueError, match="was not given \\(6 tensors missing\\)"):
        save_file(file, LISTING, [("wide", TENSORS["wide"])])
