"""scripts/test_pythons.py: which interpreters are found, and what is said of those that fail."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "test_pythons.py"
OWN = "{}.{}".format(*sys.version_info)


def interpreter(path, *lines):
    """A shell script in an interpreter's place; it runs the one of this test unless `lines` end it before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, f'exec {shlex.quote(sys.executable)} "$@"', ""]))
    path.chmod(0o755)
    return path


@pytest.fixture
def tried(tmp_path):
    """The script's exit code and lines, where the folder `bin` is all of PATH and `pyenv` is pyenv's."""

    def run(*arguments):
        places = {"PATH": f"{tmp_path}/bin", "PYENV_ROOT": f"{tmp_path}/pyenv"}
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments],
            env=os.environ | places, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout.splitlines()

    return run


def test_a_version_is_found_on_the_path_else_among_those_of_pyenv(tried, tmp_path):
    interpreter(
        tmp_path / "bin" / f"python{OWN}", "exit 127"
    )  # as a shim of pyenv, where no version is chosen
    other = interpreter(tmp_path / "bin" / "python3.99")  # calls itself another version than it is
    assert tried("--find", OWN, "3.99") == (2, [f"Python {OWN}: not found", "Python 3.99: not found"])
    by_pyenv = interpreter(tmp_path / "pyenv" / "versions" / f"{OWN}.7" / "bin" / "python")
    assert tried("--find", OWN) == (0, [f"Python {OWN}: found at {by_pyenv}"])
    assert tried("--find", str(other)) == (0, [f"Python {other}: found at {other}"])
    code, lines = tried("--find")
    assert code == 0
    assert [line.split()[1] for line in lines] == ["3.11:", "3.12:", "3.13:"]


def test_a_step_that_fails_is_named_with_its_output(tried, tmp_path):
    broken = 'case "$2" in venv) echo no space left; exit 1;; esac; case "$1" in -c) echo 3.98; exit;; esac'
    python = interpreter(tmp_path / "broken", broken)
    code, lines = tried(str(python), "--environments", str(tmp_path))
    assert code == 1
    assert lines[:2] == ["3.98: environment …", "no space left"]
    assert lines[2].startswith(f"Python {python}: failed in environment, see .venv-3.98.log")
    assert (tmp_path / ".venv-3.98.log").read_text() == "no space left\n"
