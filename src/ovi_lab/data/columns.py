"""Plain arrays by name in one file, mapped into memory: all processes of a machine share its pages.

The file: a magic, the length of the header, the header (JSON: {"about": …, "arrays": name -> [type, count, offset
after the header]}), the arrays. Nothing in it is run, and lengths and types are checked before use; what the numbers
say is for the reader to check.
"""

from __future__ import annotations

import io
import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from ovi_eval.common.plain_data import parse_json
from ovi_lab.errors import UserError

_MAGIC = b"OVICOLS1"
_START = len(_MAGIC) + 8
_ALIGNED = 64
_MAX_HEADER = 2**30
_TYPES = ("<u4", "<u8", "|u1")

Array = np.ndarray[Any, Any]


def empty(count: int, kind: Any) -> Array:
    """An array of any contents whose memory goes back to the system with it, however large the heap has grown."""
    size = count * np.dtype(kind).itemsize
    if size < 2**20:
        return np.empty(count, kind)
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), kind, count)


class DamagedColumnsError(Exception):
    """A file of columns is not as it was written."""


class Columns:
    """Arrays of a file, or of the same bytes in memory.

    Args:
        source: the file, or its bytes.

    Raises:
        DamagedColumnsError: it is no file of columns, or not whole.
        OSError: it cannot be read.
    """

    def __init__(self, source: Path | bytes) -> None:
        self.source = source
        if isinstance(source, bytes):
            buffer: Any = source
        else:
            with source.open("rb") as file:
                try:
                    buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                except ValueError as error:  # an empty file
                    raise DamagedColumnsError from error
        whole = len(buffer)
        length = int.from_bytes(buffer[len(_MAGIC) : _START], "little")
        need(buffer[: len(_MAGIC)] == _MAGIC and length <= min(whole - _START, _MAX_HEADER))
        try:
            header = parse_json(buffer[_START : _START + length], "the list of clips")
        except UserError as error:
            raise DamagedColumnsError from error
        need(isinstance(header, dict) and isinstance(header.get("arrays"), dict))
        self.about: Any = header.get("about")
        self._arrays: dict[str, Array] = {}
        for name, place in header["arrays"].items():
            need(isinstance(place, list) and len(place) == 3 and place[0] in _TYPES)
            kind, count, offset = np.dtype(place[0]), place[1], place[2]
            need(type(count) is int and type(offset) is int and min(count, offset) >= 0)
            offset += _START + length
            need(offset + count * kind.itemsize <= whole)
            self._arrays[name] = np.frombuffer(buffer, kind, count, offset) if count else np.zeros(0, kind)

    def array(self, name: str, kind: str, count: int | None = None) -> Array:
        """One array. Raises DamagedColumnsError where it is absent, or has another type or length."""
        found = self._arrays.get(name)
        if found is None or found.dtype != np.dtype(kind) or count not in (None, len(found)):
            raise DamagedColumnsError
        return found

    def __reduce__(self) -> tuple[type[Columns], tuple[Path | bytes]]:
        return (Columns, (self.source,))


def need(condition: bool) -> None:
    """Raises DamagedColumnsError where a condition of the contents does not hold."""
    if not condition:
        raise DamagedColumnsError


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


class ColumnWriter:
    """Collects arrays piece by piece, in unnamed files of `folder` or without one in memory.

    Args:
        kinds: the type of each array, of "<u4", "<u8", "|u1".
    """

    def __init__(self, kinds: Mapping[str, str], folder: Path | None) -> None:
        self._kinds = dict(kinds)
        self._pieces: dict[str, IO[bytes]] = {
            name: io.BytesIO() if folder is None else TemporaryFile(dir=folder)  # noqa: SIM115
            for name in kinds
        }
        self._bytes = dict.fromkeys(kinds, 0)

    def add(self, name: str, values: Any) -> None:
        """More values of one array: numbers, or for "|u1" bytes."""
        kind = self._kinds[name]
        data = values if isinstance(values, bytes) else np.array(values, kind).tobytes()
        self._pieces[name].write(data)
        self._bytes[name] += len(data)

    def write(self, about: Any, file: IO[bytes]) -> None:
        """The whole file; the pieces are gone then."""
        arrays, end = {}, 0
        for name, kind in self._kinds.items():
            arrays[name] = [kind, self._bytes[name] // np.dtype(kind).itemsize, end]
            end += _padded(self._bytes[name])
        header = json.dumps({"about": about, "arrays": arrays}).encode()
        length = _padded(_START + len(header)) - _START
        file.write(_MAGIC + length.to_bytes(8, "little") + header.ljust(length))
        for name, piece in self._pieces.items():
            piece.seek(0)
            copyfileobj(piece, file, 2**20)
            file.write(bytes(_padded(self._bytes[name]) - self._bytes[name]))
        self.close()

    def close(self) -> None:
        for piece in self._pieces.values():
            piece.close()
