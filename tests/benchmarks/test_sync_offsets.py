"""The sync filter against planted offsets: what is counted, and a page and a figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.benchmark_scripts import load_script, table_rows


def test_precision_and_recall_count_what_is_planted_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script(monkeypatch, "sync_offsets")
    right = [(offset, {"sync_offset": float(offset)}) for offset in script.OFFSETS]
    shares = script.kept(right, 3)
    assert {offset for offset, share in shares.items() if share} == set(range(-3, 4))
    assert script.precision_and_recall(shares, 3) == (1.0, 1.0)
    # a judge that is one frame out one way: of 7 kept, 6 are within, and one of those within is lost
    off = [(offset, {"sync_offset": float(offset + 1)}) for offset in script.OFFSETS]
    assert script.precision_and_recall(script.kept(off, 3), 3) == pytest.approx((6 / 7, 6 / 7))
    assert sum(script.kept([(offset, {"sync_offset": None}) for offset in script.OFFSETS], 3).values()) == 0


@pytest.mark.slow
def test_the_page_has_a_row_a_bound_and_the_judge_is_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script(monkeypatch, "sync_offsets")
    monkeypatch.setattr(script, "OFFSETS", range(-6, 7, 3))
    monkeypatch.setattr("sys.argv", ["sync_offsets.py", "--clips", "2", "--out", str(tmp_path)])
    script.main()
    rows = table_rows((tmp_path / "sync_offsets.md").read_text())
    assert [row[0] for row in rows] == ["1", "2", "3", "5"]
    assert rows[2][2] == "1.000"
    assert (tmp_path / "sync_offsets.png").stat().st_size > 1000
