"""The benchmark of training runs at the tiny size: its two loops do the same work, and other machines' tables stay."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from helpers.benchmark_scripts import load_script, table_rows

Ran = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    module = load_script(monkeypatch, "training")
    # a log every 2 steps and checkpoints at 2 and 4, not every 10, at 20 and 40; 4 clips a batch, not 16
    loops, rows_of = sys.modules["training_loops"], module.of_checkpoints
    monkeypatch.setattr(loops, "COMMON", [*loops.COMMON, "trainer.log_every_n_steps=2"])
    monkeypatch.setattr(module, "LOGGED", 2)
    monkeypatch.setitem(module.SIZES, "tiny", (4, module.SIZES["tiny"][1]))
    monkeypatch.setattr(module, "of_checkpoints", lambda root, size, *_: rows_of(root, size, 2, 4, 1))
    return module


@pytest.fixture
def ran(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Runs it."""

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["training.py", *arguments])
        script.main()

    return run


@pytest.mark.slow
def test_the_loops_do_the_same_work(tmp_path: Path, ran: Ran) -> None:
    out = tmp_path / "training.md"
    out.write_text(
        "# Training\n\n## CPU\n\nan old table\n\n## ovi_11b, few blocks, GPU\n\n| another machine's |\n"
    )
    ran("--sizes", "tiny", "--stretches", "1", "--out", str(out))
    text = out.read_text()
    assert "an old table" not in text
    assert "## ovi_11b, few blocks, GPU\n\n| another machine's |" in text
    plain, *options, first, last = table_rows(text.split("## ovi_11b")[0])
    assert float(plain[7]) <= 1e-6
    # nothing but a few numbers lies beside what the plain loop holds
    assert float(plain[6]) < 1.05
    memory = {row[0].strip("`").rpartition("=")[2]: float(row[2]) for row in options}
    assert len(memory) == 7
    assert memory["full"] < memory["attention"] < memory["matmul"] < memory["none"] == 1
    assert memory["all_but_fusion"] < memory["attention_only"] < memory["ffn"] < 1
    assert [first[4], last[4]] == ["2", "4"]


@pytest.mark.slow
def test_another_arithmetic_is_not_timed(
    tmp_path: Path, ran: Ran, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(script.Plain):  # type: ignore[name-defined,misc]
        def step(self) -> float:
            return float(super().step()) + 1e-5

    monkeypatch.setattr(script, "Plain", Other)
    out = tmp_path / "training.md"
    with pytest.raises(SystemExit, match="tiny: the losses of the two loops differ by 1"):
        ran("--sizes", "tiny", "--stretches", "1", "--out", str(out))
    assert not out.exists()


@pytest.mark.slow
def test_few_blocks(tmp_path: Path, ran: Ran) -> None:
    out = tmp_path / "training.md"
    ran("--size", "tiny", "--blocks", "1", "--steps", "1", "--out", str(out))
    table = table_rows(out.read_text())
    assert [row[0] for row in table] == ["1"] * 5
    assert all(float(row[2].replace(",", "")) > 0 for row in table)
