"""The benchmark of the list of clips at a small size: its counts and its page; nothing is timed."""

from pathlib import Path

import pytest

from helpers.benchmark_scripts import load_script, table_rows
from ovi_lab.data import clip_list
from ovi_lab.data.dataset import ClipDataset


def test_a_start_is_measured_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_list, "KEPT_FROM", 0)
    script = load_script(monkeypatch, "clip_list")
    monkeypatch.setattr(script, "PER_SHARD", 1000)
    script.make_shards(tmp_path, 2500)
    rows = {}
    for name, settings in script.RUNS.items():
        first, later = (script.measured(tmp_path, settings) for _ in range(2))
        assert first.keys() == later.keys()
        assert first["file MB"] == later["file MB"] > 0.1
        rows[name] = (first, later)
    data = ClipDataset(sorted(tmp_path.glob("a-*.tar")), modalities=["audio"])
    assert (len(data), data.entries.counts) == (2500, [1000, 1000, 500])
    assert data.entries[1999].key == "clip0000001999"
    page = script.report(rows, 2500)
    assert "a start with 2,500 of them" in page
    assert [row[0] for row in table_rows(page)] == 2 * list(script.RUNS)
