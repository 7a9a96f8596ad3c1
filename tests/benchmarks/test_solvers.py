"""The benchmark of solvers runs, and its table has the scores that the study recorded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers.benchmark_scripts import load_script, table_rows


@pytest.mark.slow
def test_times_stand_beside_the_recorded_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script(monkeypatch, "solvers")
    scores = script.recorded(script.ROOT / "experiments" / "solver" / "results.json")
    assert ("euler", 2) not in scores  # which makes no event that could be scored
    monkeypatch.setattr(script, "recorded", lambda path: {c: s for c, s in scores.items() if c[1] in (6, 8)})
    monkeypatch.setattr(sys, "argv", ["solvers.py", "--rounds", "1", "--out", str(tmp_path)])
    script.main()
    rows = table_rows((tmp_path / "solvers.md").read_text())
    assert [row[0] for row in rows] == ["6", "8"]
    assert all(float(row[n]) > 0 for row in rows for n in (1, 3, 5))
    assert [row[2] for row in rows] == [f"{scores['unipc', n]:.3f}" for n in (6, 8)]
    assert (tmp_path / "time.png").read_bytes().startswith(b"\x89PNG")
