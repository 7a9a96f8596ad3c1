"""The scripts of benchmarks/ as modules of this process: a fresh one would take longer than all they measure."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load_script(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """`benchmarks/NAME.py`, which finds what lies beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def table_rows(section: str) -> list[list[str]]:
    """The cells of all tables' rows, heads left out."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    heads = {i + d for i, row in enumerate(cells) if set("".join(row)) <= set(":-") for d in (-1, 0)}
    return [row for i, row in enumerate(cells) if i not in heads]
