"""Reading of untrusted files: any fault of their content becomes a one-line error."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError

# What parsers, torch and our own code raise over content of another shape than expected.
_WRONG = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, SafetensorError,
    TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def reading(source: Path | str, what: str, advice: str = "copy it again or use another") -> Iterator[None]:
    """Context in which an untrusted file is parsed, and nothing else is done.

    Args:
        source: the file or folder.
        what: it is to be, in words: "codec file".
        advice: what the user can do.

    Raises:
        UserError: instead of any error that wrong content can cause.
    """
    try:
        yield
    except _WRONG as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise UserError(
            f"{shown(source, None)} is not a whole {what} ({shown(reason, 160)}): {advice}"
        ) from error
