"""Where a rehearsal stops: at an operation that a GPU refuses as well, or whose result shapes do not tell.

Tensors of different devices, a shape that depends on values, sharded parameters that nothing has gathered.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
)

_MIXED = "mixed torch.Tensor and DTensor"
_STOPS = (FakeTensorDeviceMismatchError, DynamicOutputShapeException, DataDependentOutputException)


def stopped_or(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `run` finds, or `failed`: the operation, and the line of this code that called it."""
    try:
        return run()
    except (*_STOPS, RuntimeError) as error:
        if not isinstance(error, _STOPS) and _MIXED not in str(error):
            raise
        source = Path(__file__).resolve().parents[1]
        places = [
            f"{Path(frame.filename).relative_to(source)}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).is_relative_to(source) and "rehearsal" not in frame.filename
        ]
        place = f" at {places[-1]}" if places else ""
        return {"failed": f"{str(error).splitlines()[0]}{place}"}
