"""An empty cache of weight digests for each test of sampling, and `ovi-sample` called in process."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ovi_lab import sample


@pytest.fixture(autouse=True)
def _empty_cache(own_cache: None) -> None:
    pass


@pytest.fixture(scope="session")
def cases(goldens: Path) -> dict[str, Any]:
    """The released code's sizes, prompts and file names."""
    return json.loads((goldens / "resolution_prompts.json").read_text())


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the command in this process: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ovi-sample", *arguments])
        code = 0
        try:
            sample.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run
