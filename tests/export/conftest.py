"""Exports that are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ovi_lab.export.cli import main


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Asserts that the command fails with one line that has these words, and leaves nothing."""

    def check(source: Path, *words: str, options: Sequence[str] = ()) -> None:
        capsys.readouterr()
        assert main([str(source), "--out", str(tmp_path / "refused"), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        for word in words:
            assert word in error
        assert not (tmp_path / "refused").exists()

    return check
