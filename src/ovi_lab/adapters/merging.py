"""An adapter's product added to the weights that it adapts: in memory, or while a checkpoint is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ovi_lab.adapters.settings import LoraSettings, adapted_layer, base_name
from ovi_lab.errors import UserError
from ovi_lab.weights.tensor_files import Stored


def merged(weight: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """weight + scaling B A, [out, in], summed in float32 and rounded once to the weight's type.

    UserError where the result is not finite.
    """
    total = (weight.float() + scaling * (B.float() @ A.float())).to(weight.dtype)
    if not bool(total.isfinite().all()):
        raise UserError(
            "merging the adapter gives weights that are not finite: it is broken, or of another model"
        )
    return total


class MergedWeights(Stored):
    """A checkpoint of a model with an adapter, as weights without one under the released names.

    Args:
        weights: of the checkpoint; names as the model with the adapter has them.
        adapter: the settings of the run (its `adapter`).

    Tensors are merged one at a time, as they are streamed. Raises UserError for an adapter without its weights.
    """

    def __init__(self, weights: Stored, adapter: LoraSettings | Mapping[str, Any]) -> None:
        self.path, self._weights = weights.path, weights
        self._settings = LoraSettings.of(adapter)
        self._base: dict[str, str] = {}
        self._sides: dict[str, dict[str, str]] = {}
        for name in weights.tensors:
            found = adapted_layer(name)
            if found is None:
                self._base[base_name(name)] = name
            else:
                self._sides.setdefault(f"{found[0]}.weight", {})[found[1]] = name
        for layer, sides in self._sides.items():
            if layer not in self._base or len(sides) != 2:
                raise UserError(f"{weights.path} holds a part of an adapter of {layer} only: it is not whole")
        held = weights.tensors
        self.tensors = {name: held[stored] for name, stored in self._base.items()}

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            sides = self._sides.get(name)
            read = dict(self._weights.stream([self._base[name], *(sides or {}).values()]))
            weight = read[self._base[name]]
            if sides is not None:
                weight = merged(weight, read[sides["A"]], read[sides["B"]], self._settings.scaling)
            yield name, weight
