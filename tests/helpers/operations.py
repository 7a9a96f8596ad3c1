"""Operations that PyTorch runs, counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A compiled graph runs what may draw numbers as run_with_rng_state(state, operation, …).
        self.counts[(func if isinstance(func, OpOverload) else args[1]).name()] += 1
        return func(*args, **(kwargs or {}))
