"""Where in this code an operation comes from."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_SOURCE = str(Path(__file__).resolve().parents[1]) + "/"
_OWN = str(Path(__file__).resolve().parent) + "/"
_PACKAGES = "/site-packages/"
_PASSING = ("models/recomputation.py",)
"""Files that only pass calls on."""
_MACHINERY = (
    "torch/_",
    "torch/utils",
    "torch/autograd",
    "torch/nn/modules",
    "torch/nn/functional",
    "torch/distributed/",
)
"""Of packages, what is between a call and its operations."""


def line_of_code() -> str:
    """`folder/file.py:line` of the innermost line of ovi_lab, behind what of a package it called.

    Of the backward pass, whose operations no line calls, the name of the operation that is differentiated, and the line
    of a package that has a backward pass of its own.
    """
    frame = sys._getframe(2)
    package = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_SOURCE):
            place = name[len(_SOURCE) :]
            if not name.startswith(_OWN) and place not in _PASSING:
                return f"{place}:{frame.f_lineno}{package}"
        elif not package and _PACKAGES in name:
            place = name.partition(_PACKAGES)[2]
            if not place.startswith(_MACHINERY):
                package = f" ({place}:{frame.f_lineno})"
        frame = frame.f_back  # type: ignore[assignment]
    node = torch._C._current_autograd_node()
    if node is not None:
        return f"backward of {node.name().removesuffix('0').removesuffix('Backward')}{package}"
    return package.strip(" ()") or "the rehearsal"
