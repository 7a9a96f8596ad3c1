"""Initial values of a rehearsed model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class NoValues:
    """In place of `ParameterValues`: nothing is drawn, as what values are changes nothing on shapes."""

    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, name: str, owner: nn.Module, leaf: str, rows: slice | None = None) -> Tensor:
        value = torch.empty(owner.get_parameter(leaf).shape)
        return value if rows is None else value[rows]
