"""NumPy files in shards: plain arrays come back, and whatever else a header says is a bad sample."""

import tracemalloc

import numpy as np
import pytest

from ovi_lab.data.index import BadSampleError
from ovi_lab.data.npy import load_npy, npy_bytes


def npy(header: str | bytes, data: bytes = b"", version: bytes = b"\1\0", length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    length = len(text) if length is None else length
    stated = length.to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + stated + text + data


def described(descr: str = "'|u1'", shape: str = "(4,)", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        npy(described(), b"1234")[:20],
        npy(described(), b"1234", version=b"\4\0"),
        npy(described(), b"1234", length=60_000),
        npy(described(), b"1234", version=b"\2\0", length=2**32 - 1),
        npy(described(), b"123"),
        npy(described(shape="(10**9,)")),
        npy(described(shape="(1000000000, 9, 9, 3)")),
        npy(described(shape="(-4,)"), b"1234"),
        npy(described(shape="(-2, -2)"), b"1234"),
        npy(described(shape="(True, 4)"), b"1234"),
        npy(described(shape="(4.0,)"), b"1234"),
        npy(described(shape="[4]"), b"1234"),
        npy(described(shape=f"({'9' * 3000},)")),
        npy(described(shape=f"({2**62}, 8)")),
        npy(described(shape="(" + "1, " * 40 + ")"), b"1"),
        npy(described("'|O'"), b"1234"),
        npy(described("'|V4'", "(1,)"), b"1234"),
        npy(described("'<U1'", "(1,)"), b"1234"),
        npy(described("'<M8[s]'", "(1,)"), bytes(8)),
        npy(described("[('a', '|u1')]"), b"1234"),
        npy(described("'i4,i4'"), bytes(32)),
        npy(described("None"), b"1234"),
        npy(described(fortran="True"), b"1234"),
        npy(described(fortran="0"), b"1234"),
        npy("{'descr': '|u1', 'shape': (4,)}", b"1234"),
        npy("__import__('os').system('false')", b"1234"),
        npy("(" * 4000, b"1234"),
        npy("-" * 4000 + "1", b"1234"),
        npy("{" * 1000, b"1234"),
        npy("\0" * 64, b"1234"),
        npy(b"\xff\xfe" * 32, b"1234", version=b"\3\0"),
    ],
)
def test_untrusted_npy_members_are_bad_samples(data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(
        BadSampleError, match=r"^its .frames.npy is (no .npy file|not a whole, plain array)"
    ) as caught:
        load_npy(data, "frames.npy")
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "array", [np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.ones(5, ">i2"), np.zeros((0, 3))]
)
def test_plain_arrays_come_back_whole(array: np.ndarray) -> None:
    back = load_npy(npy_bytes(array), "frames.npy")
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
