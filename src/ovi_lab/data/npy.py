"""Arrays of plain numbers as `.npy` bytes: read without NumPy's own reader, which tries to repair old headers.

Source of the format: NumPy Enhancement Proposal 1, versions 1.0 to 3.0.
"""

from __future__ import annotations

import ast
import io
import math
import re
from typing import Any

import numpy as np

from ovi_eval.common.shown import shown
from ovi_lab.data.index import BadSampleError

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 4096  # characters; NumPy writes some 120
_MAX_DIMENSIONS = 8
_NUMBERS = re.compile(r"\|?b1|[<>|=]?[iu][1248]|[<>=]?f[248]")


def load_npy(data: bytes, name: str) -> np.ndarray[Any, Any]:
    """The array of a member's bytes, whose header must be plain and tell the truth about its size.

    Raises:
        BadSampleError: it is no such file, or an array of objects or records, in Fortran's order or not whole.
    """
    start, text = _header(data, name)
    try:
        header = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise BadSampleError(f"its .{name} is no .npy file (its header is no literal)") from error
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise BadSampleError(f"its .{name} is no .npy file (its header has other keys)")
    descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_length, shape)):
        raise BadSampleError(f"its .{name} is no .npy file (its shape is {shown(shape, 60)})")
    plain = isinstance(descr, str) and _NUMBERS.fullmatch(descr) and fortran is False
    dtype = np.dtype(descr) if plain else None
    rest = len(data) - start
    if dtype is None or rest != math.prod(shape) * dtype.itemsize:
        raise BadSampleError(
            f"its .{name} is not a whole, plain array ({shown(descr, 60)} {list(shape)}, {rest} bytes)"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape).copy()


def npy_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """The bytes of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _header(data: bytes, name: str) -> tuple[int, str]:
    """Where the numbers begin, and the text before them."""
    version = tuple(data[6:8])
    if data[:6] != _MAGIC or version not in ((1, 0), (2, 0), (3, 0)):
        raise BadSampleError(f"its .{name} is no .npy file of version 1.0 to 3.0")
    width = 2 if version == (1, 0) else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    start = 8 + width + length
    if length > _MAX_HEADER or start > len(data):
        raise BadSampleError(f"its .{name} is no .npy file (a header of {length} bytes)")
    try:
        return start, data[8 + width : start].decode("utf-8" if version == (3, 0) else "latin-1")
    except UnicodeDecodeError as error:
        raise BadSampleError(f"its .{name} is no .npy file (its header is no text)") from error


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48
