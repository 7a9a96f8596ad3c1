"""Safetensors files, one or several under an index: headers first, then one tensor at a time.

Names, shapes and types come from the headers. Tensors are views of the mapped file, and the mapping is renewed
every few tensors: tensors that were converted or moved to another device release the file, so that
reading costs one copy of the weights and not two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovi_eval.common.plain_data import read_json
from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError

INDEX_SUFFIX = ".safetensors.index.json"
_REMAP_AFTER = 64 * 2**20
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types by safetensors' word for them."""
_WORDS = {dtype: word for word, dtype in DTYPES.items()}


def dtype_word(dtype: torch.dtype) -> str:
    """Safetensors' word for a type."""
    return _WORDS.get(dtype, str(dtype).removeprefix("torch.").upper())


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's entry in a header: its shape, safetensors' word for its type, and the file it is in."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


class Stored(ABC):
    """Tensors on disk by name, none of them read: files, pieces of a sharded checkpoint, or a merge of such."""

    path: Path
    """The file's, index's or checkpoint's."""
    tensors: Mapping[str, StoredTensor]
    """Shape and type by name."""

    def stream(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor on the CPU, one after the other; all of them unless `names` are given.

        Raises:
            UserError: a file changed or broke since it was opened.
        """
        return self._read(self.tensors if names is None else names)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a tensor, on the CPU; raises as `stream`."""
        return next(iter(self.stream([name])))[1][start:stop]

    @abstractmethod
    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]: ...


class TensorFiles(Stored):
    """All tensors of a model in safetensors files; those that are streamed are views of the mapped file."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]) -> None:
        self.path, self.tensors = path, tensors

    @classmethod
    def open(cls, path: str | Path, what: str = "weights") -> TensorFiles:
        """Read the headers.

        Args:
            path: a .safetensors file, an index (*.safetensors.index.json), or a folder with one of either.
            what: the content in words, for messages.

        Raises:
            UserError: nothing there, not whole, or shards that do not agree with their index.
        """
        path = find_weights(Path(path), what)
        if path.name.endswith(INDEX_SUFFIX):
            return cls(path, _indexed(path, what))
        return cls(path, _header(path, what))

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        for file, wanted in by_file.items():
            waiting = wanted[::-1]
            while waiting:
                yield from _some(file, waiting)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Of the file only these rows are read."""
        file = self.tensors[name].file
        with _unchanged(file), safe_open(file, framework="pt") as content:
            found: Tensor = content.get_slice(name)[start:stop]
            return found


def find_weights(path: Path, what: str) -> Path:
    """The .safetensors file or index that a path means; an index stands for a file that is kept in shards.

    Raises:
        UserError: there is none, or a folder holds several.
    """
    if path.is_dir():
        found = sorted(path.glob(f"*{INDEX_SUFFIX}")) or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            names = ", ".join(f.name for f in found) or "no .safetensors file"
            raise UserError(f"{path} holds {names}: name the one file (or index) with the {what}")
        return found[0]
    index = path.with_name(f"{path.name}.index.json")
    if not path.exists() and index.is_file():
        return index
    if not path.is_file():
        raise UserError(f"no {what} at {path}: fetch the file, or correct the path")
    if path.suffix != ".safetensors" and not path.name.endswith(INDEX_SUFFIX):
        raise UserError(
            f"{path} is neither a .safetensors file nor its index: the {what} are read from those"
        )
    return path


def _header(file: Path, what: str) -> dict[str, StoredTensor]:
    try:
        with safe_open(file, framework="pt") as content:
            slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            return {n: StoredTensor(tuple(s.get_shape()), s.get_dtype(), file) for n, s in slices.items()}
    except (SafetensorError, OSError, AttributeError, ValueError) as error:
        raise UserError(
            f"{file} is not a whole safetensors file ({shown(error)}; {_size(file)}): fetch the {what} again"
        ) from error


def _indexed(index: Path, what: str) -> dict[str, StoredTensor]:
    try:
        places = read_json(index)["weight_map"]
        by_file: dict[str, set[str]] = {}
        for name, file in places.items():
            by_file.setdefault(file, set()).add(name)
        if not all(isinstance(file, str) for file in by_file):
            raise TypeError("it names other than files")
    except (UserError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is no index of weights ({shown(error)}): fetch it again") from error
    tensors: dict[str, StoredTensor] = {}
    for file, names in by_file.items():
        if Path(file).name != file or "\\" in file:
            raise UserError(f"{index} names {shown(repr(file))}, which is not a file beside it: refused")
        shard = index.parent / file
        if not shard.is_file():
            raise UserError(f"{index} names {shown(file)}, which is missing: fetch that part of the {what}")
        held = _header(shard, what)
        odd = sorted(names ^ held.keys())
        if odd:
            state = "lacks" if odd[0] in names else "has, unlisted,"
            raise UserError(
                f"{shard} {state} {shown(odd[0])} ({len(odd)} tensors differ from its index): fetch both again"
            )
        tensors.update(held)
    return {name: tensors[name] for name in places}


def _some(file: Path, waiting: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Tensors from the end of `waiting`, which are taken off it, until enough of the file has been touched."""
    read = 0
    with _unchanged(file), safe_open(file, framework="pt") as content:
        while waiting and read < _REMAP_AFTER:
            tensor = content.get_tensor(waiting[-1])
            read += tensor.numel() * tensor.element_size()
            yield waiting.pop(), tensor
            del tensor


@contextmanager
def _unchanged(file: Path) -> Iterator[None]:
    """UserError where the file can no longer be read as it was when it was opened."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} cannot be read any more ({error}): it changed while it was loaded"
        ) from error


def _size(file: Path) -> str:
    return f"{file.stat().st_size} bytes" if file.is_file() else "gone"
