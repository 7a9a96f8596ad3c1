"""Sizes of memory, and how much of a GPU is kept free."""

from __future__ import annotations

GIB = 2**30
DRIVER = int(0.75 * GIB)
"""Bytes kept free on a GPU besides tensors: the driver's context and the libraries' workspaces."""
MARGIN = 1.05
"""Factor on the peak: what the allocator loses between blocks of different sizes."""


def gib(size: int) -> str:
    """`23.4 GiB`, or MiB for small ones."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
