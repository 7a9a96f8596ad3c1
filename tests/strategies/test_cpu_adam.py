"""DeepSpeed's AdamW of offloaded state: in place of torch's AdamW alone, and where it can be compiled."""

import logging
from functools import partial

import pytest
import torch

from ovi_lab.strategies.cpu_adam import cpu_adam_where_possible

pytest.importorskip("deepspeed")
ADAMW = partial(torch.optim.AdamW, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)


def test_another_optimiser_is_left_alone():
    for factory in (torch.optim.SGD, partial(ADAMW, amsgrad=True)):
        assert cpu_adam_where_possible(factory) is factory


@pytest.mark.slow
def test_without_a_compiler_torchs_steps_and_one_line_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with caplog.at_level(logging.WARNING, "ovi_lab.strategies"):
        assert cpu_adam_where_possible(ADAMW) is ADAMW
    (line,) = [r.getMessage() for r in caplog.records if r.name == "ovi_lab.strategies"]
    assert "DeepSpeed's CPU Adam cannot be compiled here" in line
    assert "\n" not in line
