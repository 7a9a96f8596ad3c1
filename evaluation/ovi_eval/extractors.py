"""From one clip to what metrics of one network need of it. Features are cached by what the clip holds.

An extractor works in two steps, so that the next clips are decoded while the network looks at this one:
`load` decodes and prepares, on any thread; `run` is the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ovi_eval.items import Item
from ovi_eval.needs import Need

Features = dict[str, Tensor]
CPU = torch.device("cpu")


class Extractor(ABC):
    """A network with its way of preparing clips.

    `version` rises whenever the same clip would give other features; `variant` (weights, choices) and
    `preprocessing` say what else they depend on. `weights` is the sha256 of each weight file by its name.
    `reads_caption`: whether the clip's caption matters beside its picture and sound.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    needs: ClassVar[tuple[Need, ...]] = ()
    preprocessing: ClassVar[str] = ""
    reads_caption: ClassVar[bool] = False
    variant: str = ""

    def __init__(self, device: torch.device = CPU) -> None:
        """Finds and loads the weights. Raises EvalError where something that is needed is not there."""
        self.device = device
        self.weights: dict[str, str] = {}

    @property
    def key(self) -> str:
        """All that the features of a clip depend on besides the clip."""
        return f"{self.name} v{self.version}; {self.variant}; {self.preprocessing}"

    def notes(self, items: Sequence[Item]) -> tuple[str, ...]:
        """What to tell beside the numbers of these clips, such as texts of which only a part is read."""
        return ()

    @abstractmethod
    def load(self, item: Item) -> Any:
        """What `run` takes, decoded and prepared. Raises EvalError with the reason a clip has no features."""

    @abstractmethod
    def run(self, loaded: Any) -> Features:
        """The features of one clip. Raises EvalError with the reason where it has none."""
