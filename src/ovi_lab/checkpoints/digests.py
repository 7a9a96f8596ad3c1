"""Digests of weight files, computed in the background and cached in the user's cache folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from ovi_eval.common.files import file_sha256, write_whole
from ovi_eval.common.plain_data import read_json
from ovi_lab.errors import UserError


class Digests:
    """SHA-256 of files, computed in the background and cached under size and time of change.

    Args:
        files: the files by their names in the result.
        cache: the file of cached digests; None takes `ovi_lab/sha256.json` in the user's cache folder.
    """

    def __init__(self, files: Mapping[str, Path], cache: Path | None = None) -> None:
        self._kept = cache or default_cache() / "sha256.json"
        self._known = _read_kept(self._kept)
        self._found: dict[str, Future[str]] = {name: Future() for name in files}
        # a daemon: a command that ends with an error does not wait for forty gigabytes to be hashed
        Thread(target=self._work, args=(dict(files),), name="sha256", daemon=True).start()

    def _work(self, files: dict[str, Path]) -> None:
        for name, path in files.items():
            try:
                self._found[name].set_result(self._digest(path))
            except (OSError, UserError) as error:
                self._found[name].set_exception(error)

    def result(self) -> dict[str, str]:
        """Hex digests by name; waits for what is not finished. Raises UserError where a file cannot be read."""
        try:
            return {name: future.result() for name, future in self._found.items()}
        except OSError as error:
            raise UserError(f"weights cannot be read ({error}): make the file readable") from error

    def _digest(self, path: Path) -> str:
        facts = path.stat()
        key = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = file_sha256(path)
            # a cache: where it cannot be written, the next call takes as long
            with suppress(UserError):
                write_whole(self._kept, json.dumps(_read_kept(self._kept) | self._known, indent=0))
        return self._known[key]


def default_cache() -> Path:
    """The user's cache folder for this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovi_lab"


def _read_kept(path: Path) -> dict[str, str]:
    try:
        content: Any = read_json(path)
    except UserError:
        return {}
    return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}
