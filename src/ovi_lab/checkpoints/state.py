"""The state that resuming reads from a checkpoint, slice by slice, whichever strategy wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from safetensors import safe_open
from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.checkpoints.folder import Checkpoint
from ovi_lab.checkpoints.sharded import AVERAGE, WEIGHT, PieceReader
from ovi_lab.common.foreign import reading
from ovi_lab.errors import UserError
from ovi_lab.weights.torch_files import load_plain

OPTIMIZER_NAMES = "optimizer_names"
"""Key in trainer_state.pt of the parameters behind the numbers of a torch optimiser's state."""
OPTIMIZER_SCALARS = "optimizer_scalars"


class WholeState:
    """The state of a checkpoint that one process wrote: weights by part, the optimiser's state by number."""

    def __init__(self, checkpoint: Checkpoint, content: Mapping[str, Any]) -> None:
        self._places: dict[tuple[str, str], tuple[Any, str]] = {}
        for kind, folder in ((WEIGHT, ""), (AVERAGE, "ema/")):
            for part in checkpoint.parts(averaged=bool(folder)):
                file = safe_open(checkpoint.file(f"{folder}{part}.safetensors"), framework="pt").__enter__()
                for name in file.keys():  # noqa: SIM118
                    self._places[kind, f"{part}.{name}"] = (file, name)
        states = content.get("optimizer_states") or [{}]
        names = content.get(OPTIMIZER_NAMES)
        state = states[0].get("state") or {}
        if state and names is None:
            raise UserError(
                f"checkpoint {checkpoint.path} was written before checkpoints listed their optimiser's parameters: "
                "resume it with the version that wrote it, or start from its weights with init_from.all"
            )
        self._state = {names[number]: values for number, values in state.items()} if names else {}
        self.scalars = {
            name: {k: float(v) for k, v in values.items() if not _is_slot(v)}
            for name, values in self._state.items()
        }
        """Single numbers of the optimiser (`step`), by parameter."""

    def slots(self) -> tuple[str, ...]:
        """Names of the optimiser's slots."""
        return tuple(
            dict.fromkeys(k for held in self._state.values() for k, v in held.items() if _is_slot(v))
        )

    def shape(self, kind: str, name: str) -> tuple[int, ...] | None:
        """Shape of the whole parameter; None where the checkpoint has no such value of it."""
        if (kind, name) in self._places:
            file, key = self._places[kind, name]
            return tuple(file.get_slice(key).get_shape())
        value = self._state.get(name, {}).get(kind)
        return tuple(value.shape) if _is_slot(value) else None

    def read(self, kind: str, name: str, start: int = 0, count: int | None = None) -> Tensor:
        """A slice of a parameter's values, flat; all of them where no `count` is given."""
        if (kind, name) in self._places:
            file, key = self._places[kind, name]
            values = file.get_tensor(key).reshape(-1)
        else:
            values = self._state[name][kind].reshape(-1)
        return values if count is None else values[start : start + count]


def _is_slot(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dim() > 0


TrainingState = PieceReader | WholeState
"""Weights, averages and optimiser slots of a checkpoint, by the parameters' names in the LightningModule."""


def plain_content(checkpoint: Checkpoint) -> dict[str, Any]:
    """The content of trainer_state.pt: tensors and plain values, mapped from the file.

    Raises:
        UserError: it is broken or holds anything else.
    """
    content = load_plain(checkpoint.file("trainer_state.pt"))
    if content.get("global_step") != checkpoint.step:
        raise UserError(
            f"checkpoint {checkpoint.path} contradicts itself: its listing says step {checkpoint.step}, its state "
            f"{shown(content.get('global_step'), 40)}; use another checkpoint"
        )
    return content


def training_state(checkpoint: Checkpoint, content: Mapping[str, Any]) -> TrainingState:
    """The state of a checkpoint, of whichever layout. UserError where it is broken."""
    with reading(checkpoint.path, "checkpoint"):
        if not checkpoint.sharded:
            return WholeState(checkpoint, content)
        reader = checkpoint.pieces()
        reader.scalars = dict(content.get(OPTIMIZER_SCALARS) or {})
        return reader


def ready_optimizer_state(
    state: TrainingState, names: list[str], groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """A torch optimiser's state dict for parameters of these names, in this order.

    Args:
        state: of the checkpoint.
        names: of the optimiser's parameters, through its groups.
        groups: the checkpoint's hyperparameters, one dictionary a group, with the numbers of its parameters or without.
    """
    by_number: dict[int, dict[str, Any]] = {}
    for number, name in enumerate(names):
        shapes = {slot: shape for slot in state.slots() if (shape := state.shape(slot, name)) is not None}
        if shapes:
            numbers = {k: torch.tensor(v) for k, v in state.scalars.get(name, {}).items()}
            slots = {slot: state.read(slot, name).reshape(shape).clone() for slot, shape in shapes.items()}
            by_number[number] = slots | numbers
    return {"state": by_number, "param_groups": groups}
