"""The numbers of reference implementations: where they lie, and how they are read.

In a wheel they are inside the package, in a checkout beside the tests; any other folder of files of the same
names can be compared with instead.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovi_eval.errors import UserError

KNOWN_BY = "stats_golden.json"
"""A file that every folder of goldens has."""


def goldens_folder() -> Path:
    """The folder of the goldens that come with ovi-eval. Raises UserError where an installation lacks it."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "goldens", package.parents[1] / "tests" / "goldens")
    for place in places:
        if (place / KNOWN_BY).is_file():
            return place
    raise UserError(
        f"no goldens at {' or '.join(map(str, places))}; install ovi-lab again, or name a folder with --goldens"
    )


class Goldens:
    """The files of one folder. Raises UserError that names file and key where something is not there."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / KNOWN_BY).is_file():
            raise UserError(f"{self.folder}: is no folder of goldens (it has no {KNOWN_BY})")
        self._json = cache(self._read_json)
        self._tensors = cache(self._read_tensors)

    def path(self, name: str) -> Path:
        """Where the file of that name lies."""
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file; the folder of goldens is not whole")
        return path

    def json(self, name: str, *keys: str) -> Any:
        """What a JSON file holds under these keys, one inside the other."""
        value = self._json(name)
        for place, key in enumerate(keys):
            if not isinstance(value, dict) or key not in value:
                raise UserError(f"{self.folder / name}: has no {' > '.join(keys[: place + 1])}")
            value = value[key]
        return value

    def tensor(self, name: str, key: str) -> Tensor:
        """One tensor of a safetensors file."""
        tensors = self._tensors(name)
        if key not in tensors:
            raise UserError(f"{self.folder / name}: has no tensor {key}")
        return tensors[key]

    def _read_json(self, name: str) -> Any:
        path = self.path(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({error})") from error

    def _read_tensors(self, name: str) -> dict[str, Tensor]:
        path = self.path(name)
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read as safetensors ({error})") from error
