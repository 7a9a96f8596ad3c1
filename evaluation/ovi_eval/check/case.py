"""Cases: what each golden is compared with, one small function each, and what such a function is given.

A case is a generator of compared lines under `@CASES.case(...)`. It takes its expected numbers from the setting's
goldens and computes the rest with the package's own public functions. Where it lacks clips, weights or a
package, the setting's functions raise CannotRunError with what would be needed, and the case counts as not run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from ovi_eval.check.generated import weights
from ovi_eval.check.goldens import Goldens
from ovi_eval.check.lines import Line
from ovi_eval.common.needs import Need, missing
from ovi_eval.common.weights import Network, PublishedFile, find_weights, load_published

Kept = TypeVar("Kept")


class CannotRunError(Exception):
    """A case cannot run here: the message says what it needs."""


class Setting:
    """What cases run in: goldens, clips, weights, and a folder for files that they make."""

    def __init__(self, goldens: Goldens, clips: Path | None, scratch: Path) -> None:
        self.goldens, self.clips, self.scratch = goldens, clips, scratch
        self._kept: dict[str, Any] = {}

    def clip(self, name: str) -> Path:
        """A real clip by its place below the folder of clips."""
        if self.clips is None:
            raise CannotRunError(f"needs --clips with {name}")
        path = self.clips / name
        if not path.is_file():
            raise CannotRunError(f"{self.clips} has no {name}")
        return path

    def need(self, *needs: Need) -> None:
        """Stops the case unless all of these are there."""
        for need in needs:
            if (line := missing(need, "it")) is not None:
                raise CannotRunError(line.removeprefix("it "))

    def real_weights(self, file: PublishedFile) -> Path:
        """The published file itself, from the folder of weights."""
        self.need(file)
        return find_weights(file, "this")

    def generated_weights(
        self, file: PublishedFile, keys: str, tables: dict[str, Tensor] | None = None
    ) -> Path:
        """A file as published, under its published name, whose tensors are generated.

        `keys` is the golden that lists names and shapes; `tables` are tensors that are not generated.
        """
        path = self.scratch / file.name
        if not path.is_file():
            tensors = {**weights(self.goldens.path(keys)), **(tables or {})}
            if path.suffix == ".safetensors":
                save_file(tensors, path)
            else:
                torch.save({file.inside: tensors} if file.inside else tensors, path)
        return path

    def network(
        self,
        build: Callable[[], Network],
        file: PublishedFile,
        keys: str,
        tables: dict[str, Tensor] | None = None,
    ) -> Network:
        """The network with generated weights; arguments as `generated_weights`."""
        return load_published(build, self.generated_weights(file, keys, tables), file).network

    def keep(self, name: str, make: Callable[[], Kept]) -> Kept:
        """What `make` gives, made once for all cases of a group."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def forget(self) -> None:
        """Frees what was kept and removes the files that were made: a group's networks hold up to 1 GB."""
        self._kept.clear()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True, exist_ok=True)


Run = Callable[[Setting], Iterator[Line]]


@dataclass(frozen=True)
class Case:
    """One golden, or several that are computed together.

    `name` is "group.what"; `metric` what it is part of; `reference` the implementation and commit that gave
    the numbers; `goldens` which of them ("file: key", with * for any); `slow`: about five seconds or more.
    """

    name: str
    metric: str
    reference: str
    goldens: tuple[str, ...]
    run: Run
    slow: bool = False

    @property
    def group(self) -> str:
        """Cases of a group share networks."""
        return self.name.split(".")[0]


def keys_of(file: str, *keys: str) -> tuple[str, ...]:
    """Goldens of one file, as `Case.goldens` names them."""
    return tuple(f"{file}: {key}" for key in keys)


class Cases(dict[str, Case]):
    """Cases by name, in the order in which they were added."""

    def case(
        self, name: str, metric: str, reference: str, *goldens: str, slow: bool = False
    ) -> Callable[[Run], Run]:
        """Adds the function below it as a case; the arguments are those of `Case`."""

        def add(run: Run) -> Run:
            self.add([Case(name, metric, reference, goldens, run, slow)])
            return run

        return add

    def not_run(self, name: str, metric: str, reference: str, *goldens: str, reason: str) -> None:
        """Adds a golden that cannot be recomputed anywhere, with the reason that is shown."""

        def run(setting: Setting) -> Iterator[Line]:
            raise CannotRunError(reason)
            yield  # makes this a generator, as every case is

        self.case(name, metric, reference, *goldens)(run)

    def add(self, cases: Iterable[Case]) -> None:
        """Adds cases. Raises ValueError for a name that is taken."""
        for each in cases:
            if each.name in self:
                raise ValueError(f"two cases are called {each.name}")
            self[each.name] = each
