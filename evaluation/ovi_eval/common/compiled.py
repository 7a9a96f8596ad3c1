"""Machine code that numba keeps on disk, written by one process at a time.

librosa has numba compile some functions and keep the result. Where two processes compile the same function at once,
the files that are left can belong to different compilations, and every process that loads them crashes from then on
(numba 0.68: about every third time that three processes began together). Code compiled here is therefore kept in a
folder of its own, apart from what other programs of the same environment write, and under a lock.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ovi_eval.common.files import cache_folder

FOLDER = "NUMBA_CACHE_DIR"
"""The environment variable of numba's folder; a user's own value is kept."""


def own_compiled_code() -> None:
    """Gives numba a folder below the cache folder; to be called before librosa is imported.

    Where the cache folder cannot be written, the folder is this process's own and goes with it.
    """
    if os.environ.get(FOLDER):
        return
    folder = cache_folder() / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.mkdtemp(prefix="ovi_eval_numba_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[FOLDER] = str(folder)
    if "numba" in sys.modules:  # it has read the variable already
        sys.modules["numba"].config.CACHE_DIR = str(folder)


@contextmanager
def compiling() -> Iterator[None]:
    """Context of every use of librosa: one process at a time compiles."""
    folder = os.environ.get(FOLDER, "")
    if not os.access(folder, os.W_OK):  # numba writes nothing there either
        yield
        return
    with FileLock(Path(folder) / "ovi_eval.lock"):
        yield
