"""Provenance of numbers: versions of libraries, the machine, the state of the code, the options.

Nothing is imported to find its version, apart from av, whose FFmpeg is the decoder itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ovi_eval import __version__
from ovi_eval.errors import UserError

# Every number depends on these; each is named even where its version is unknown.
COMPUTE = ("torch", "torchmetrics", "numpy", "scipy", "av")
# Only where they are installed: each is used by some metrics.
OPTIONAL = (
    "transformers",
    "soundfile",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python",
    "librosa",
    "scenedetect",
    "laion-clap",
)
GIT_SECONDS = 10.0


def facts(folder: str | Path = ".") -> dict[str, Any]:
    """All facts: `versions`, `decoder`, `machine` and, where `folder` is in a git checkout, `git`."""
    found: dict[str, Any] = {"versions": versions(), "decoder": ffmpeg(), "machine": machine()}
    state = git_state(folder)
    if state is not None:
        found["git"] = state
    return found


def versions() -> dict[str, str]:
    """Version by package, as installed: this one, Python, and the libraries that compute and decode."""
    found = {"ovi_eval": __version__, "python": platform.python_version()}
    for package in COMPUTE:
        found[package] = installed(package) or "not installed as a package"
    return found | {package: text for package in OPTIONAL if (text := installed(package))}


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def ffmpeg() -> dict[str, str]:
    """The FFmpeg libraries that decode and resample, by name: `libavcodec` -> `62.28.102`."""
    import av

    return {name: ".".join(map(str, number)) for name, number in sorted(av.library_versions.items())}


def machine() -> str:
    """System, processor, cores and, where torch already runs on one, the accelerator."""
    text = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")  # never imported, nor a device started, to fill in a line of text
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        text += f", {torch.cuda.get_device_name()}"
    return text


def git_state(folder: str | Path = ".") -> dict[str, Any] | None:
    """The commit that is checked out around `folder`, and whether tracked files differ from it.

    None where there is no git, no checkout or no commit yet.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": changed != ""}


def _git(folder: str | Path, *words: str) -> str | None:
    """The output of git; None where it cannot be run or fails."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            # Reading must neither take the lock of a running commit nor ask for a password.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return result.stdout.strip()


def configuration_hash(options: Mapping[str, Any]) -> str:
    """sha256, 64 hexadecimal digits, of the options of a score.

    Taken over JSON with sorted keys, no spaces and UTF-8, so that the order in which options were given does
    not matter. Paths count as text, tuples as lists, sets as sorted lists. Raises UserError naming an option
    that has no such form.
    """
    plain = {str(key): _plain(value, str(key)) for key, value in options.items()}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def _plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item, name) for item in value), key=repr)
    raise UserError(
        f"option {name} is {value!r}, which cannot be hashed; use text, finite numbers, lists or maps"
    )
