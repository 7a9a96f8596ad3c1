"""The benchmark of the options that save memory: its section among others' sections, and its rows at the tiny size."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from helpers.benchmark_scripts import load_script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it imports `sampling` from beside it."""
    monkeypatch.delitem(sys.modules, "sampling", raising=False)
    module = load_script(monkeypatch, "sampling_memory")
    monkeypatch.delitem(sys.modules, "sampling")
    return module


def test_its_section_alone_is_replaced(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sampling.md"
    others = [
        "# Sampling\n\nwords\n",
        "## mid, CPU\n\n| a | b |\n",
        "## ovi_11b, GPU\n\n| another machine's |\n",
    ]
    out.write_text("\n".join([*others[:2], "## memory, CPU\n\nan old table\n", others[2]]))
    monkeypatch.setattr(script, "picture_rows", lambda size: iter([["64x64", "whole", *"123456"]]))
    monkeypatch.setattr(script, "offload_rows", lambda size: iter([["towers", "`true`", *"1234"]]))
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)  # as where it is not installed
    monkeypatch.setattr(sys, "argv", ["sampling_memory.py", "--size", "tiny", "--out", str(out)])
    script.main()
    introduction, first, own, last = (s.strip() for s in out.read_text().split("\n## "))
    assert [f"{introduction}\n", f"## {first}\n", f"## {last}\n"] == others
    assert own.startswith("memory, CPU\n")
    assert "an old table" not in own
    assert "| 64x64 | whole | 1 | 2 | 3 | 4 | 5 | 6 |" in own
    assert "| towers | `true` | 1 | 2 | 3 | 4 |" in own
    assert "Not measured here: weights_8bit=true needs the package torchao" in own
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_tiles_are_measured(script: ModuleType) -> None:
    whole, tiles = script.picture_rows("tiny")
    assert whole[:2] == ["288x32, 5 frames", "whole"]
    assert min(map(float, [*whole[2:4], *tiles[2:4]])) > 0
    for row in (whole, tiles):
        assert 0.9 < float(row[5]) / float(row[4]) < 1.1
    assert float(tiles[4]) != float(whole[4]) > 0
    assert float(tiles[6]) > float(tiles[7]) > 0


def test_weights_of_8_bits_are_measured(script: ModuleType) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed: 8-bit weights are not measured here")
    wide, narrow, *_ = script.weight_rows("tiny")
    assert 0 < float(narrow[1]) < float(wide[1])
    assert 0 < float(narrow[4]) == float(narrow[6]) < 0.02


@torch.no_grad()
def test_weights_that_come_and_go_are_counted(script: ModuleType) -> None:
    first, second = torch.nn.Linear(100, 10, bias=False), torch.nn.Linear(10, 10, bias=False)
    found = {}
    for offload in ("none", "parts"):
        count = script.brought([[first], [second]], ((), ()), offload)
        found[offload] = (count.peak, count.copied)
    assert found == {"none": (4400, 4400), "parts": (4000, 4400)}
