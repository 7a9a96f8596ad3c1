"""Arrays of plain numbers as `.npy` bytes; headers are parsed by NumPy, whose reader would allocate what they claim."""

from __future__ import annotations

import io
import math
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from ovi_eval.common.shown import shown
from ovi_lab.data.index import BadSampleError

_MAX_DIMENSIONS = 8


def load_npy(data: bytes, name: str) -> np.ndarray[Any, Any]:
    """The array of a member's bytes, whose header must be plain and state its real size.

    Raises:
        BadSampleError: it is no such file, or an array of objects or records, in Fortran's order or truncated.
    """
    file = io.BytesIO(data)
    try:
        version = npy_format.read_magic(file)
        if version not in ((1, 0), (2, 0)):  # NumPy writes others for arrays of records alone
            raise ValueError(f"version {version[0]}.{version[1]}")
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(file)  # of at most 10,000 characters
    except (ValueError, SyntaxError, TypeError, TokenError, MemoryError, RecursionError) as error:
        raise BadSampleError(f"its .{name} is no .npy file ({shown(error, 60)})") from error
    rest = len(data) - file.tell()
    plain = dtype.kind in "biuf" and dtype.itemsize <= 8 and not fortran
    sizes = len(shape) <= _MAX_DIMENSIONS and all(type(n) is int and 0 <= n < 2**48 for n in shape)
    if not plain or not sizes or rest != math.prod(shape) * dtype.itemsize:
        raise BadSampleError(
            f"its .{name} is not a whole, plain array ({shown(dtype, 60)} {shown(list(shape), 60)}, {rest} bytes)"
        )
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape).copy()


def npy_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """The bytes of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()
