"""Sharded checkpoints: each process writes slices of flattened parameters, and any other layout reads them.

shards/rank_00003.safetensors holds flat tensors named `<kind>/<parameter>`, the kind being `weight`, `ema`, `buffer` or
an optimiser's slot (`exp_avg`, …); its metadata hold each slice's start and full shape. A loading process asks for the
slice it needs, which is read from the files that overlap it: the number of processes, the ZeRO stage and the strategy
that saved do not matter.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovi_eval.common.plain_data import parse_json
from ovi_lab.common.foreign import reading
from ovi_lab.errors import UserError
from ovi_lab.weights.tensor_files import StoredTensor

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


@dataclass(frozen=True)
class _Part:
    start: int
    count: int
    file: str


@dataclass
class PieceReader:
    """All slices of a checkpoint, by kind and parameter; none of them read."""

    folder: Path
    parts: dict[str, list[_Part]]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    checked: Callable[[str], Path]
    """Gives a file's path by its name in the checkpoint, called before it is first read."""
    _open: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, files: Iterable[str], checked: Callable[[str], Path]) -> PieceReader:
        """Read the tables of the files, given relative to the checkpoint `folder`.

        Args:
            folder, files: of the checkpoint.
            checked: gives a file's path before values are read from it; raises UserError for a damaged one.

        Raises:
            UserError: a file is broken, or the slices of a parameter are incomplete.
        """
        reader = cls(folder, defaultdict(list), {}, {}, checked)
        for name in files:
            path = folder / name
            with reading(path, "part of a checkpoint"), safe_open(path, framework="pt") as content:
                about = parse_json((content.metadata() or {}).get(_METADATA, "{}"), str(path))
                for key, (start, shape) in about.items():
                    values = content.get_slice(key)
                    (count,) = values.get_shape()
                    shape = tuple(shape)
                    if type(start) is not int or not all(type(n) is int and n >= 0 for n in shape):
                        raise ValueError(f"{key} has no start and shape")
                    if reader.shapes.setdefault(key, shape) != shape:
                        raise ValueError(
                            f"{key} is of {shape} here and of {reader.shapes[key]} in another part"
                        )
                    if reader.dtypes.setdefault(key, values.get_dtype()) != values.get_dtype():
                        raise ValueError(
                            f"{key} is of {values.get_dtype()} here and otherwise in another part"
                        )
                    reader.parts[key].append(_Part(start, count, name))
        for key, parts in reader.parts.items():
            parts.sort(key=lambda part: part.start)
            reached = 0
            for part in parts:
                if part.start != reached:
                    break
                reached += part.count
            if reached != math.prod(reader.shapes[key]):
                raise UserError(
                    f"the shards in {folder} hold {reached} of {math.prod(reader.shapes[key])} values of "
                    f"{key}: a process's file is missing or of another checkpoint, use another one"
                )
        return reader

    def kinds(self) -> set[str]:
        """The kinds of slices."""
        return {key.partition("/")[0] for key in self.parts}

    def names(self, kind: str) -> list[str]:
        """Parameters that have slices of this kind."""
        return [key.partition("/")[2] for key in self.parts if key.startswith(f"{kind}/")]

    def shape(self, kind: str, name: str) -> tuple[int, ...]:
        """Shape of the whole parameter."""
        return self.shapes[f"{kind}/{name}"]

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
            self._open[file] = safe_open(self.checked(file), framework="pt").__enter__()
        return self._open[file]


@dataclass(frozen=True)
class PieceTensors:
    """A part of the network (`model`, …) in a sharded checkpoint, as whole tensors by name."""

    path: Path
    reader: PieceReader
    keys: Mapping[str, str]
    """Kind of slice, by full name."""
    prefix: str

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """Shape and type by name."""
        found = {}
        for name, kind in self.keys.items():
            key = f"{kind}/{name}"
            file = self.path / self.reader.parts[key][0].file
            found[name.removeprefix(self.prefix)] = StoredTensor(
                self.reader.shapes[key], self.reader.dtypes[key], file
            )
        return found

    def stream(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor, one after the other; all of them unless `names` are given."""
        wanted = [n.removeprefix(self.prefix) for n in self.keys] if names is None else names
        for name in wanted:
            full = self.prefix + name
            kind = self.keys[full]
            yield name, self.reader.read(kind, full).view(self.reader.shape(kind, full))


def part_of(reader: PieceReader, part: str, averaged: bool) -> PieceTensors | None:
    """The tensors of a part, averaged where asked for and averaged at all. None: there are none."""
    prefix = f"{part}."
    keys = {
        name: kind
        for kind in (BUFFER, WEIGHT, *((AVERAGE,) if averaged else ()))
        for name in reader.names(kind)
        if name.startswith(prefix)
    }
    return PieceTensors(reader.folder, reader, keys, prefix) if keys else None
