"""Atomic writing of files: they appear whole or not at all; and the digest that identifies a file."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ovi_eval.errors import UserError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and is removed otherwise.

    Raises UserError naming `path` where the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({error}); free space or choose another place") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def file_sha256(path: str | Path) -> str:
    """The file's sha256 in 64 hexadecimal digits, read in pieces. Raises UserError where it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); make the file readable") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that appears whole or not at all; text is UTF-8. Raises as `written_whole`."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder on the same disk as `path`, removed in the end with what is still in it."""
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def written_together() -> Iterator[Callable[[Path], Path]]:
    """Gives for each path a temporary name beside it; when the block ends well all take their places, else none.

    A disk that is full shows while the temporary files are written, when nothing has its place yet. Files that were
    there before are kept aside until all have theirs. Raises UserError naming the path that cannot be written.
    """
    temporary: dict[Path, Path] = {}
    aside: dict[Path, Path] = {}
    placed: list[Path] = []
    current = Path()

    def beside(path: Path) -> Path:
        nonlocal current
        current = path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        return temporary[path]

    try:
        yield beside
        for path in temporary:
            current = path
            if path.is_dir():
                raise IsADirectoryError(f"{path.name} is a folder")
        for path, written in temporary.items():
            current = path
            if path.exists():
                aside[path] = path.with_name(f".{path.name}.{os.getpid()}.old")
                _keep(path, aside[path])
            written.replace(path)
            placed.append(path)
    except BaseException as error:
        for path in placed:
            with suppress(OSError):
                path.unlink()
        for path, old in aside.items():
            with suppress(OSError):
                old.replace(path)
        if isinstance(error, OSError):
            raise UserError(
                f"{current}: cannot be written ({error}); free space or choose another place"
            ) from error
        raise
    finally:
        for path in [*temporary.values(), *aside.values()]:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _keep(path: Path, aside: Path) -> None:
    """A second name for a file, so that its own is never without one; where there are no links, the file moves."""
    try:
        os.link(path, aside)
    except OSError:
        path.replace(aside)


def cache_folder() -> Path:
    """The folder of OVI_EVAL_CACHE, else ovi_eval below the user's cache folder."""
    if named := os.environ.get("OVI_EVAL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovi_eval"
