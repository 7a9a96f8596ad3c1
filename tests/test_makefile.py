"""`make install`: which Python it takes, and what it says before it begins."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# as an interpreter it is of a version that will do; it makes an environment with itself inside, and installs nothing
PYTHON = """#!/bin/sh
echo "$0 $1 $2 $3" >> "$LOG"
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("make", "sh", "ls", "grep", "touch", "mkdir", "cp"):  # and no interpreter of this machine
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path


def interpreter(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PYTHON)
    path.chmod(0o755)


def install(checkout):
    """What is printed, and the calls of interpreters but for the question of their version."""
    log = checkout / "log"
    environment = {"PATH": str(checkout / "bin"), "LOG": str(log)}
    done = subprocess.run(
        ["make", "install"], cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, [line for line in log.read_text().splitlines() if " -c " not in line]


def test_the_first_version_that_is_there_is_taken_and_the_size_is_said_first(checkout):
    for name in ("python3.13", "python3.12", "python3.11"):
        interpreter(checkout / "bin" / name)
        (checkout / ".venv" / ".installed").unlink(missing_ok=True)
        shutil.rmtree(checkout / ".venv", ignore_errors=True)
        (checkout / "log").unlink(missing_ok=True)
        printed, calls = install(checkout)
        assert calls[0] == f"{checkout / 'bin' / name} -m venv .venv"
        assert calls[1].startswith(".venv/bin/python -m pip install")
        assert re.match(r"make install: 2 to 10 minutes, 6 GB", printed)
        assert re.search(
            rf"{name} -m venv .venv && .venv/bin/pip install torch==[\d.]+ --index-url https://\S+/cpu\n",
            printed,
        )


def test_an_environment_with_pytorch_for_cpus_is_kept(checkout):
    interpreter(checkout / ".venv" / "bin" / "python")
    (checkout / ".venv/lib/python3.13/site-packages/torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    interpreter(checkout / "bin" / "python3.11")
    printed, calls = install(checkout)
    assert printed.startswith("make install: 2 to 10 minutes, 2.8 GB")
    assert len(calls) == 2  # the project, and a package without what it depends on
    assert all(call.startswith(".venv/bin/python -m pip") for call in calls)


def test_pins_of_numpy_fit_the_versions_of_python():
    from packaging.requirements import Requirement

    lines = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("numpy==")
    ]
    for version, major in (("3.11", "1"), ("3.12", "1"), ("3.13", "2")):
        chosen = [r for r in map(Requirement, lines) if r.marker.evaluate({"python_version": version})]
        assert [str(r.specifier)[2] for r in chosen] == [major]
