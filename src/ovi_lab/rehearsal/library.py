"""The library `no_gpu.cpp`, built once for each version of PyTorch and kept in the user's cache.

Nothing here imports torch: the library has to be loaded before it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ovi_lab.errors import UserError

SOURCE = Path(__file__).with_name("no_gpu.cpp")
TESTED = (2, 13)
"""The version of PyTorch whose headers and calls the rehearsal was written for."""
_REAL = "ovi-rehearse … device=cuda measures on a GPU instead"


@dataclass(frozen=True)
class Torch:
    """The installed PyTorch, read without importing it."""

    folder: Path
    version: str
    cuda: bool
    """Whether it was built for CUDA."""

    @classmethod
    def installed(cls) -> Torch:
        """Raises UserError where there is none."""
        spec = find_spec("torch")
        if spec is None or spec.origin is None:
            raise UserError("the rehearsal needs PyTorch, and it is not installed: make install")
        folder = Path(spec.origin).parent
        text = (folder / "version.py").read_text()
        version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
        cuda = re.search(r"^cuda: .* = (.+)$", text, re.MULTILINE)
        return cls(folder, version[1] if version else "unknown", bool(cuda and cuda[1] != "None"))

    def refuse_unfit(self) -> None:
        """Raises UserError where the library cannot stand in for CUDA in this PyTorch."""
        if self.cuda:
            raise UserError(
                f"the rehearsal needs a build of PyTorch without CUDA, and this is {self.version}: install PyTorch for "
                f"CPUs in an environment of its own; {_REAL}"
            )
        numbers = tuple(int(n) for n in re.findall(r"\d+", self.version)[:2])
        if numbers != TESTED:
            raise UserError(
                f"the rehearsal is written for PyTorch {TESTED[0]}.{TESTED[1]}, and this is {self.version}: install "
                f"that version in an environment of its own; {_REAL}"
            )


def built(cache: Path | None = None) -> Path:
    """The library of the installed PyTorch, compiled where the cache does not have it (some 10 s).

    Args:
        cache: folder to keep it in; None: the user's.

    Raises:
        UserError: PyTorch does not fit, there is no compiler, it fails, or the cache cannot be written.
    """
    torch = Torch.installed()
    torch.refuse_unfit()
    source = SOURCE.read_bytes()
    digest = hashlib.sha256(source + torch.version.encode() + str(torch.folder).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = (cache or home / "ovi_lab" / "rehearsal") / f"no_gpu-{torch.version}-{digest}.so"
    if path.is_file():
        return path
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("c++")
    if compiler is None:
        raise UserError(
            f"the rehearsal compiles {SOURCE.name} once and finds no C++ compiler: install g++, or name one in CXX"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            _command(compiler, torch.folder, temporary), capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            raise UserError(f"{SOURCE.name} could not be compiled by {compiler}: {said[:300]}")
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot keep the rehearsal's library in {path.parent} ({error}): set XDG_CACHE_HOME to a folder that can "
            "be written"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _command(compiler: str, torch: Path, out: Path) -> list[str]:
    include, libraries = torch / "include", torch / "lib"
    return [
        compiler, "-shared", "-fPIC", "-std=c++20", "-O0", "-w", str(SOURCE), "-o", str(out),
        f"-I{include}", f"-I{include / 'torch/csrc/api/include'}",
        f"-L{libraries}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{libraries}",
    ]  # fmt: skip


def load(path: Path) -> None:
    """Load the library into this process, before torch, which looks its devices' hooks up once."""
    if "torch" in sys.modules:
        raise RuntimeError("torch is imported already, and its hooks of CUDA are looked up")
    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
