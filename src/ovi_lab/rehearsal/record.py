"""What happened on the GPU: kernels, bytes, waits, copies, by kind and by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Kind = Literal["product", "pointwise", "collective"]
LINES = 24
"""Lines of code that a summary lists."""


@dataclass
class Record:
    """Counts since the last `clear`."""

    kernels: Counter[Kind] = field(default_factory=Counter)
    moved: Counter[Kind] = field(default_factory=Counter)
    """Bytes read and written, by kind."""
    calls: Counter[str] = field(default_factory=Counter)
    """Kernels, by the operation's name."""
    lines: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    """Bytes, by line and kind."""
    hits: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    """Kernels, by line and kind."""
    waits: Counter[str] = field(default_factory=Counter)
    """Where the host waited for the GPU."""
    copies: Counter[tuple[str, bool, int, str]] = field(default_factory=Counter)
    """Between host and GPU: direction, whether the host runs on meanwhile, bytes, line."""
    wide: Counter[str] = field(default_factory=Counter)
    """Bytes of products with float32 or float64 factors, by operation and line."""

    def kernel(self, name: str, kind: Kind, size: int, factors: Sequence[torch.dtype], line: str) -> None:
        """One kernel that reads and writes `size` bytes, with factors of these types."""
        self.kernels[kind] += 1
        self.moved[kind] += size
        self.calls[name] += 1
        self.lines[line, kind] += size
        self.hits[line, kind] += 1
        if kind == "product" and any(t in (torch.float32, torch.float64) for t in factors):
            self.wide[f"{name} at {line}"] += size

    def wait(self, what: str, line: str) -> None:
        """The host waits until the GPU is done."""
        self.waits[f"{what} at {line}"] += 1

    def copy(self, direction: str, size: int, soon: bool, line: str) -> None:
        """A copy between host and GPU; not `soon`, the host waits for it."""
        self.copies[direction, soon, size, line] += 1

    def clear(self) -> None:
        """Forget all."""
        for counter in vars(self).values():
            counter.clear()

    def summary(self) -> dict[str, Any]:
        """What a report shows, in plain values."""
        blocking: Counter[str] = Counter()
        for (direction, soon, size, line), count in self.copies.items():
            if not soon:
                blocking[f"{size:,} bytes {direction} at {line}"] += count
        return {
            "kernels": dict(self.kernels),
            "moved": dict(self.moved),
            "waits": dict(self.waits.most_common()),
            "blocking_copies": dict(blocking.most_common()),
            "copies": sum(count for (_, soon, _, _), count in self.copies.items() if soon),
            "wide_products": dict(self.wide.most_common()),
            "lines": [
                {"line": line, "kind": kind, "kernels": self.hits[line, kind], "bytes": size}
                for (line, kind), size in self.lines.most_common(LINES)
            ],
        }
