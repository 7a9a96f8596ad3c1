"""The benchmark of sampling's savings runs at the tiny size, in both precisions, and keeps other machines' tables."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.benchmark_scripts import load_script, table_rows

Ran = Callable[..., None]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Runs the script at the tiny size."""
    script = load_script(monkeypatch, "sampling")

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["sampling.py", "--size", "tiny", "--steps", "2", *arguments])
        script.main()

    return run


@pytest.mark.parametrize(("dtype", "apart"), [("fp32", 1e-4), ("bf16", 0.5)])
@pytest.mark.slow
def test_all_cases_are_timed_and_agree(tmp_path: Path, ran: Ran, dtype: str, apart: float) -> None:
    out = tmp_path / "sampling.md"
    out.write_text("# Sampling\n\n## tiny, CPU\n\nan old table\n\n## ovi_11b, GPU\n\n| another machine's |\n")
    ran("--repeats", "1", "--dtype", dtype, "--out", str(out))
    text = out.read_text()
    assert "an old table" not in text
    assert "## ovi_11b, GPU\n\n| another machine's |" in text
    table = table_rows(text.split("## ovi_11b")[0])
    assert len(table) == 11
    assert [row[0] for row in table if row[7] == ""] == [
        "**every saving off**",
        "a text without padding: every saving off",
    ]
    for row in table:
        assert float(row[2]) >= 0
        assert float(row[3]) > 0
        assert float(row[5]) > 0
        assert row[7] == "" or float(row[7]) < apart


def test_some_cases_alone(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    ran("--repeats", "1", "--only", "merge_padding")
    table = table_rows(capsys.readouterr().out)
    assert [row[0] for row in table] == ["**every saving off**", "a text's padding as two keys"]
    with pytest.raises(SystemExit, match="--only has nothing; expected some of: off, cache_text"):
        ran("--only", "nothing")
