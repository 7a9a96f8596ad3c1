"""The trace of a few steps of a real run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from helpers.run_folders import column, same, weights
from helpers.several import start

pytestmark = pytest.mark.slow


def test_the_steps_named_are_traced_and_the_run_is_the_same(tmp_path: Path, data_root: Path) -> None:
    """The second step alone, and the last of a run that ends before the others; four batches of two blocks each."""
    few = "{{skip: {}, steps: {}, shapes: false, memory: false, stacks: false, all_ranks: false}}"
    runs = {
        "plain": [],
        "traced": [f"profiler={few.format(1, 1)}"],
        "short": [f"profiler={few.format(2, 9)}"],
    }
    start({name: ["trainer.max_steps=3", *more] for name, more in runs.items()}, tmp_path, data_root, 1)
    assert not (tmp_path / "plain" / "profile").exists()
    for name in ("traced", "short"):
        assert column(tmp_path / name, "train/loss") == column(tmp_path / "plain", "train/loss")
        assert same(weights(tmp_path / name, ema=False), weights(tmp_path / "plain", ema=False))
        (trace,) = (tmp_path / name / "profile").iterdir()
        assert trace.name == "rank_00000.json.gz"
        with gzip.open(trace) as file:
            names = [event.get("name") for event in json.load(file)["traceEvents"]]
        assert names.count("aten::scaled_dot_product_attention") == 4 * 2 * 6
