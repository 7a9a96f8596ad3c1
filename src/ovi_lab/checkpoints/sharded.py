"""Sharded checkpoints: each process writes slices of flattened parameters, and any other layout reads them.

shards/rank_00003.safetensors holds flat tensors named `<kind>/<parameter>`, the kind being `weight`, `ema`, `buffer` or
an optimiser's slot (`exp_avg`, …); its metadata hold each slice's start and full shape. A loading process requests the
slice it needs, which is read from the files that overlap it: the number of processes, the ZeRO stage and the strategy
that saved do not matter.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovi_eval.common.plain_data import parse_json
from ovi_lab.common.foreign import reading
from ovi_lab.errors import UserError
from ovi_lab.weights.tensor_files import Stored, StoredTensor

FOLDER = "shards"
WEIGHT, AVERAGE, BUFFER = "weight", "ema", "buffer"
_METADATA = "pieces"


def shard_name(rank: int) -> str:
    """The file of one process, relative to the checkpoint."""
    return f"{FOLDER}/rank_{rank:05d}.safetensors"


@dataclass(frozen=True)
class FlatSlice:
    """A slice of a flattened parameter."""

    kind: str
    name: str
    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    start: int
    values: Tensor
    """The slice's values, flat."""


def write_pieces(path: Path, pieces: Iterable[FlatSlice]) -> None:
    """Write one process's file. Slices without values are left out."""
    tensors: dict[str, Tensor] = {}
    about: dict[str, tuple[int, tuple[int, ...]]] = {}
    for piece in pieces:
        if piece.values.numel():
            key = f"{piece.kind}/{piece.name}"
            # a copy of its own: safetensors refuses tensors that share memory, as parts of a flat one do
            tensors[key] = piece.values.detach().cpu().clone()
            about[key] = (piece.start, piece.shape)
    save_file(tensors, path, metadata={"format": "pt", _METADATA: json.dumps(about)})


@dataclass(frozen=True, order=True)
class _Part:
    start: int
    count: int
    file: str


class PieceReader:
    """All slices of a sharded checkpoint, by `<kind>/<parameter>`; none of them read.

    Args:
        folder: the checkpoint's.
        files: names of the shards in it.
        checked: gives a file's path before values are read from it; raises UserError for a damaged one.

    Raises:
        UserError: a file is broken, or the slices of a parameter are incomplete.
    """

    def __init__(self, folder: Path, files: Iterable[str], checked: Callable[[str], Path]) -> None:
        self.folder, self._checked = folder, checked
        self.parts: dict[str, list[_Part]] = defaultdict(list)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.scalars: dict[str, dict[str, float]] = {}
        """Single numbers of the optimiser (`step`), by parameter."""
        self._open: dict[str, Any] = {}
        for name in files:
            self._add(name)
        for key, parts in self.parts.items():
            parts.sort()
            reached = 0
            for part in parts:
                if part.start != reached:
                    break
                reached += part.count
            if reached != math.prod(self.shapes[key]):
                raise UserError(
                    f"the shards in {folder} hold {reached} of {math.prod(self.shapes[key])} values of "
                    f"{key}: a process's file is missing or of another checkpoint, use another one"
                )

    def _add(self, name: str) -> None:
        path = self.folder / name
        with reading(path, "part of a checkpoint"), safe_open(path, framework="pt") as content:
            about = parse_json((content.metadata() or {}).get(_METADATA, "{}"), str(path))
            for key, (start, shape) in about.items():
                values = content.get_slice(key)
                (count,) = values.get_shape()
                shape, dtype = tuple(shape), values.get_dtype()
                if type(start) is not int or not all(type(n) is int and n >= 0 for n in shape):
                    raise ValueError(f"{key} has no start and shape")
                if self.shapes.setdefault(key, shape) != shape:
                    raise ValueError(f"{key} is of {shape} here and of {self.shapes[key]} in another part")
                if self.dtypes.setdefault(key, dtype) != dtype:
                    raise ValueError(f"{key} is of {dtype} here and otherwise in another part")
                self.parts[key].append(_Part(start, count, name))

    def kinds(self) -> set[str]:
        """The kinds of slices."""
        return {key.partition("/")[0] for key in self.parts}

    def slots(self) -> tuple[str, ...]:
        """The kinds that are slots of the optimiser."""
        return tuple(sorted(self.kinds() - {WEIGHT, AVERAGE, BUFFER}))

    def names(self, kind: str) -> list[str]:
        """Parameters that have slices of this kind."""
        return [key.partition("/")[2] for key in self.parts if key.startswith(f"{kind}/")]

    def shape(self, kind: str, name: str) -> tuple[int, ...] | None:
        """Shape of the whole parameter; None where it has no slices of this kind."""
        return self.shapes.get(f"{kind}/{name}")

    def read(self, kind: str, name: str, start: int = 0, count: int | None = None) -> Tensor:
        """A slice of a parameter's values, flat; all of them where no `count` is given."""
        key = f"{kind}/{name}"
        stop = math.prod(self.shapes[key]) if count is None else start + count
        found = []
        for part in self.parts[key]:
            first, last = max(start, part.start), min(stop, part.start + part.count)
            if first < last:
                values = self._content(part.file).get_slice(key)
                found.append(values[first - part.start : last - part.start])
        if not found:
            return torch.empty(0)
        return found[0] if len(found) == 1 else torch.cat(found)

    def _content(self, file: str) -> Any:
        if file not in self._open:
            self._open[file] = safe_open(self._checked(file), framework="pt").__enter__()
        return self._open[file]


class PieceTensors(Stored):
    """A part of the network (`model`, …) in a sharded checkpoint, as whole tensors by name.

    `averaged` takes the averages of what has some; `tensors` is empty where the checkpoint lacks the part.
    """

    def __init__(self, reader: PieceReader, part: str, averaged: bool) -> None:
        self.path, self._reader = reader.folder, reader
        kinds = (BUFFER, WEIGHT, AVERAGE) if averaged else (BUFFER, WEIGHT)
        named = [(kind, name) for kind in kinds for name in reader.names(kind) if name.startswith(f"{part}.")]
        self._places = {name.removeprefix(f"{part}."): (kind, name) for kind, name in named}
        keys = {short: f"{kind}/{name}" for short, (kind, name) in self._places.items()}
        self.tensors = {
            short: StoredTensor(reader.shapes[key], reader.dtypes[key], self.path / reader.parts[key][0].file)
            for short, key in keys.items()
        }

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, self._reader.read(*self._places[name]).view(self.tensors[name].shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        shape = self.tensors[name].shape
        row = math.prod(shape[1:])
        return self._reader.read(*self._places[name], start * row, (stop - start) * row).view(-1, *shape[1:])
