"""The benchmark of every direction runs at the tiny size, and keeps other machines' tables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers.benchmark_scripts import load_script, table_rows


@pytest.mark.slow
def test_all_cases_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script(monkeypatch, "every_direction")
    monkeypatch.setattr(script, "ROLES", ("span",))
    monkeypatch.setattr(script, "FUSIONS", ("video_to_audio",))
    out = tmp_path / "every_direction.md"
    out.write_text("# Every direction\n\n## CPU\n\nan old table\n\n## Seams\n\n| another table |\n")
    few = [
        "--sizes",
        "tiny",
        "--rounds",
        "1",
        "--processes",
        "2",
        "--sampled",
        "tiny",
        "--steps",
        "1",
        "--clips",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["every_direction.py", *few, "--out", str(out)])
    script.main()
    text = out.read_text()
    assert "an old table" not in text
    assert "## Seams\n\n| another table |" in text
    rows = table_rows(text.split("## Seams")[0])
    assert [row[1] for row in rows[:3]] == ["`roles=paper`", "`roles=any`", "`span` alone"]
    assert len(rows) == 3 + 5
    assert float(rows[0][3]) == 1.0
    assert all(float(row[2]) > 0 and float(row[4]) > 0 for row in rows[:3])
    assert [row[6] != "" for row in rows[3:8]] == [False, False, True, False, True]
