"""C++ extensions that packages compile when they are first used, such as DeepSpeed's CPU Adam."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def compile_quickly() -> None:
    """From now on the same sources are compiled without optimisation, which takes less than half of the time.

    They are kept apart from those of the user's runs, which are to be fast. Without a compiler nothing changes.
    """
    compiler = os.environ.setdefault("OVI_LAB_TESTS_CXX", os.environ.get("CXX") or "c++")
    if shutil.which(compiler) is None:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ["CXX"] = str(Path(__file__).with_name("unoptimised-g++"))
    os.environ["TORCH_EXTENSIONS_DIR"] = str(cache / "ovi_lab" / "tests" / "torch_extensions")
