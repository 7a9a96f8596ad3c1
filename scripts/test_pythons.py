"""The core tests under each Python that is there: the quick tests, a training run, a clip, `ovi-eval check`.

    make test-pythons                                            # every version that pyproject.toml names
    make test-pythons PYTHONS="3.13 /opt/python3.12/bin/python"  # these; one that is not there is an error

A version is looked for on PATH and among pyenv's. That of .venv is tested there; each other gets an environment of its
own, .venv-3.12 and so on, with the versions of constraints.txt. One that is there is kept, so that PyTorch's CPU build
can be installed into it first.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ASK = "import sys, venv, ensurepip; print('{}.{}'.format(*sys.version_info))"
TRAINING = (
    "experiment=fusion",
    "debug=fast",
    "evaluation.num_clips=6",
    "evaluation.num_mp4=1",
    "sampler.steps=2",
)
PROMPT = "prompt=a red ball bounces three times low drum"


@dataclass(frozen=True)
class Python:
    """An interpreter and its version, as 3.12."""

    path: Path
    version: str


def supported() -> list[str]:
    """The versions that pyproject.toml names."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        names = tomllib.load(file)["project"]["classifiers"]
    return [name.rpartition(" ")[2] for name in names if re.search(r":: \d+\.\d+$", name)]


def asked(path: Path) -> Python | None:
    """The interpreter at a path; None where none runs there (as with a shim of pyenv), or one without venv."""
    try:
        done = subprocess.run([path, "-c", ASK], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Python(path, done.stdout.strip()) if done.returncode == 0 else None


def places(version: str) -> Iterator[Path]:
    """Where an interpreter of a version may be."""
    for folder in os.get_exec_path():
        yield Path(folder) / f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)


def find(name: str) -> Python | None:
    """The interpreter of a version, or the one at a path."""
    if not re.fullmatch(r"\d+\.\d+", name):
        return asked(Path(name))
    found = (asked(place) for place in places(name) if place.is_file())
    return next((python for python in found if python and python.version == name), None)


def environment_of(name: str, python: Python, folder: Path) -> Path:
    """An interpreter's environment: .venv where that is of the version asked for, else one in `folder`."""
    own = asked(ROOT / ".venv" / "bin" / "python")
    shared = own is not None and own.version == python.version == name
    return ROOT / ".venv" if shared else folder / f".venv-{python.version}"


def steps(python: Python, environment: Path, made: Path, workers: str) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each step.

    Args:
        python: the interpreter.
        environment: folder of its environment.
        made: an empty folder for what is made.
        workers: processes of the tests.
    """
    programs = environment / "bin"
    pip = [f"{programs}/python", "-m", "pip", "install", "--disable-pip-version-check"]
    installed = environment / ".installed"
    if not installed.is_file():  # an environment that is there keeps its packages
        yield "environment", [str(python.path), "-m", "venv", str(environment)]
    newest = max((ROOT / name).stat().st_mtime for name in ("pyproject.toml", "constraints.txt"))
    if not installed.is_file() or installed.stat().st_mtime < newest:
        yield "installation", [*pip, "-c", "constraints.txt", "-e", ".[dev]"]
        installed.touch()  # reached once the step has passed
    yield "quick tests", [
        f"{programs}/pytest", "-n", workers, "--dist", "loadfile", "-m", "not slow", "-p", "no:cacheprovider"
    ]  # fmt: skip
    run = f"run_dir={made}/run"
    yield "training", [f"{programs}/ovi-train", *TRAINING, run, f"data.root={made}/data"]
    yield "sampling", [
        f"{programs}/ovi-sample", f"checkpoint={made}/run/last", PROMPT, "sampler.steps=2", f"out={made}/clips"
    ]  # fmt: skip
    yield "ovi-eval check", [f"{programs}/ovi-eval", "check"]


def tried(python: Python, environment: Path, workers: str) -> str | None:
    """Run all steps. Returns None where all passed, else the step that failed and where its output is."""
    with tempfile.TemporaryDirectory() as made:
        for name, line in steps(python, environment, Path(made), workers):
            print(f"{python.version}: {name} …", flush=True)
            log = environment.with_name(f"{environment.name}.log")
            with log.open("w") as file:
                code = subprocess.run(line, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
            if code:
                print(*log.read_text(errors="replace").splitlines()[-20:], sep="\n", flush=True)
                return f"failed in {name}, see {log.name}"
            log.unlink()
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Try each interpreter and print a line for each. Returns 1 where one failed, 2 where one is lacking."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "pythons", nargs="*", help="versions or paths; without, all of pyproject.toml that are there"
    )
    parser.add_argument("--workers", default="2", help="processes of the tests")
    parser.add_argument("--find", action="store_true", help="only say which there are")
    parser.add_argument("--environments", type=Path, default=ROOT, help="folder of the environments")
    options = parser.parse_args(arguments)
    lines, codes = [], set()
    for name in options.pythons or supported():
        begun = time.monotonic()
        python = find(name)
        if python is None:
            said = "not found"
            codes.add(2 if options.pythons else 0)
        elif options.find:
            said = f"found at {python.path}"
        else:
            failure = tried(python, environment_of(name, python, options.environments), options.workers)
            said = f"{failure or 'passed'} ({(time.monotonic() - begun) / 60:.0f} min, {python.path})"
            codes.add(1 if failure else 0)
        lines.append(f"Python {name}: {said}")
    if not any("not found" not in line for line in lines):
        codes.add(2)
    print(*lines, sep="\n")
    return 1 if 1 in codes else max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
