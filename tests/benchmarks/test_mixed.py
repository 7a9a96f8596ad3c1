"""The benchmark of clips that lack a modality: all three ways compute the same loss."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers.benchmark_scripts import load_script, table_rows


@pytest.mark.slow
def test_the_ways_are_compared_for_both_kinds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = load_script(monkeypatch, "mixed")
    out = tmp_path / "mixed.md"
    monkeypatch.setattr(sys, "argv", ["mixed.py", "--sizes", "tiny", "--rounds", "1", "--out", str(out)])
    script.main()
    rows = table_rows(out.read_text())
    measured, counted = rows[:2], rows[2:]
    assert [row[1] for row in measured] == [row[0] for row in counted] == ["sound", "silent video"]
    assert all(float(row[4].split()[0]) > 0 for row in measured)
    assert all(float(row[2]) >= float(row[1]) > 1 for row in counted)
