"""The benchmark of the data pipeline runs, and what it writes adds up."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.benchmark_scripts import load_script, table_rows

pytestmark = pytest.mark.slow


def test_parts_add_up_and_two_workers_do_the_work_of_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = load_script(monkeypatch, "data")
    monkeypatch.setattr(script, "SIZE", (64, 96))
    monkeypatch.setattr(script, "SECONDS", 2.0)
    monkeypatch.setattr(script, "FORM", {"frames": 12, "pixels": 64 * 64})
    monkeypatch.setattr(script, "FURTHER", ())
    out = tmp_path / "data.md"
    monkeypatch.setattr(
        "sys.argv", ["data.py", "--videos", "1", "--most", "2", "--longest", "3", "--out", str(out)]
    )
    script.main()
    text = out.read_text()
    rows = {row[0]: row[1:] for row in table_rows(text)}
    total = float(rows.pop("**all**")[0].replace(",", ""))
    parts = [
        float(cells[0].replace(",", ""))
        for name, cells in rows.items()
        if name.startswith(("step", "decoding", "frames", "encoding"))
    ]
    assert {"step `motion`", "step `loudness`", "decoding for scenes and bars"} <= rows.keys()
    assert sum(parts) == pytest.approx(total, abs=len(parts))
    assert {"1", "2"} <= rows.keys()
    after_one, after_two = (float(rows[videos][0].replace(",", "")) for videos in ("1", "2"))
    assert 100 < after_one <= after_two  # the last table's: the most so far
    assert "in one build of 3 videos" in text
    assert "left out" in text  # SyncNet's weights are nowhere here
