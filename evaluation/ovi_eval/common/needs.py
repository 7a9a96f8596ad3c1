"""Requirements of metrics: published weight files, folders of them, Python packages.

Each is searched where it is used; a missing one is a one-line error.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ovi_eval.common.weights import WEIGHTS_FOLDER, PublishedFile, find_weights, where_to_put
from ovi_eval.errors import UserError


@dataclass(frozen=True)
class Package:
    """A Python package by the name it is imported by, the command that installs it, and what uses it."""

    module: str
    install: str
    why: str = ""


@dataclass(frozen=True)
class PublishedFolder:
    """A published folder of files (a tokenizer, a model in transformers' layout).

    `name` is the folder's, looked for beside the weight files; `files` must be in it; `source` is where its
    authors give it.
    """

    what: str
    name: str
    source: str
    files: tuple[str, ...] = ()

    def needs(self) -> str:
        """The folder to fetch, in a few words."""
        held = f" (with {', '.join(self.files)})" if self.files else ""
        return f"{self.what}: the folder {self.name}{held} from {self.source}"


Need = PublishedFile | PublishedFolder | Package


def find_folder(folder: PublishedFolder, for_what: str) -> Path:
    """The folder's path: below OVI_EVAL_WEIGHTS, under its own name.

    Raises UserError that says what `for_what` needs, where it comes from and where to put it.
    """
    root = os.environ.get(WEIGHTS_FOLDER, "")
    place = Path(root) / folder.name
    if root and place.is_dir():
        absent = [name for name in folder.files if not (place / name).is_file()]
        if not absent:
            return place
        raise UserError(f"{for_what} needs {folder.needs()}; {place} has no {', '.join(absent)}")
    raise UserError(f"{for_what} needs {folder.needs()}; {where_to_put()}")


def missing(need: Need, for_what: str = "this") -> str | None:
    """None where the requirement is met, else one line with the remedy."""
    try:
        if isinstance(need, PublishedFile):
            find_weights(need, for_what)
        elif isinstance(need, PublishedFolder):
            find_folder(need, for_what)
        elif importlib.util.find_spec(need.module) is None:
            why = f" {need.why}" if need.why else ""
            return f"{for_what} needs the package {need.module}{why}, which is not installed; {need.install}"
    except UserError as error:
        return str(error)
    return None


def imported(package: Package, for_what: str, module: str = "") -> Any:
    """The package, or a module of it. Raises UserError that says how to install it where it does not import."""
    try:
        return import_module(module or package.module)
    except ImportError as error:
        raise UserError(
            f"{for_what} needs the package {package.module} ({error}); {package.install}"
        ) from error


def lacking(needs: Sequence[Need], for_what: str) -> list[str]:
    """One line for each requirement that is not met."""
    return [line for need in needs if (line := missing(need, for_what)) is not None]
