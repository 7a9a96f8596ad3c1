"""Compiled blocks: one graph for all blocks, no breaks, the gradients of plain ones, whatever is recomputed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from helpers.operations import Operations
from helpers.twin_goldens import mean_squares, tiny_batch, tiny_twin
from ovi_lab.errors import UserError
from ovi_lab.models import Given
from ovi_lab.models.recomputation import ACTIVATION_CHECKPOINTING

ATTENTION, PRODUCT = "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::addmm"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    counters.clear()


def graphs() -> int:
    """Compiled so far; all of them without a break."""
    assert not counters["graph_break"]
    return int(counters["stats"]["unique_graphs"])


def gradients(**options: Any) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Of every parameter, and how often the backward pass ran each operation."""
    model = tiny_twin(spread=0.2, **options)
    loss = mean_squares(model(**tiny_batch()))
    with Operations() as backward:
        loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, backward.counts


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    return gradients()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "choice"),
    [("eager", "none"), ("eager", "attention"), *(("aot_eager", c) for c in ACTIVATION_CHECKPOINTING[1:])],
)
def test_one_graph_and_the_gradients_of_plain_blocks(
    backend: str, choice: str, plain: dict[str, Tensor]
) -> None:
    options = {"compile": "blocks", "compile_backend": backend, "activation_checkpointing": choice}
    got, again = gradients(**options)
    assert graphs() == 1
    assert got.keys() == plain.keys()
    for name, want in plain.items():
        torch.testing.assert_close(got[name], want, atol=1e-6, rtol=1e-4)
    if backend == "eager":
        assert all(torch.equal(got[name], plain[name]) for name in plain)
    # three blocks of 6 attentions and 24 products
    expected = {"none": (0, 0), "full": (18, 72), "attention": (0, 72), "matmul": (0, 0)}
    assert (again[ATTENTION], again[PRODUCT]) == expected[choice]


@pytest.mark.slow
@torch.no_grad()
def test_other_lengths_texts_and_passes_need_few_graphs() -> None:
    """The second length compiles once more, for any length; prepared texts, a clean frame and one tower are others."""
    compiled, plain = (
        tiny_twin(spread=0.2, **o) for o in ({"compile": "blocks", "compile_backend": "eager"}, {})
    )

    def same(**inputs: Any) -> int:
        got, want = compiled(**inputs), plain(**inputs)
        for modality in ("video", "audio"):
            a, b = getattr(got, modality), getattr(want, modality)
            assert a is b is None or torch.equal(a, b)
        return graphs()

    assert same(**tiny_batch(tokens=11)) == 1
    assert [same(**tiny_batch(tokens=n)) for n in (13, 17, 29)] == [2, 2, 2]
    assert same(**tiny_batch(), skip_layers=[1]) == 2
    batch = tiny_batch()
    assert same(**batch, given=Given.first_frame(batch["video"])) == 3
    texts = {key: plain.prepare_text(batch[key], key.removeprefix("text_")) for key in batch if "text" in key}
    assert same(**(batch | texts)) == 4
    assert same(**{key: value for key, value in batch.items() if "audio" not in key}) == 5


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.compile is 'all': expected none or blocks"):
        tiny_twin(compile="all")
    with pytest.raises(UserError, match=r"compile_backend is 'inducter'.*inductor"):
        tiny_twin(compile="blocks", compile_backend="inducter")
