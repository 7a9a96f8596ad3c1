"""What is logged of an optimiser step: numbers that stay on the device until the step is over, read in one copy.

Lightning's `log_dict` takes half a millisecond for each number and copies each by itself, and the host waits for every
copy. Here all of a step's numbers are stacked on the device and copied together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import Trainer
from torch import Tensor


@dataclass
class _Pending:
    """Of one step, by the name that they are logged under: floats once they are read."""

    step: int
    numbers: dict[str, Tensor | float] = field(default_factory=dict)


_PENDING: WeakKeyDictionary[Trainer, _Pending] = WeakKeyDictionary()


def log_with_step(trainer: Trainer, numbers: Mapping[str, Tensor | float]) -> None:
    """Have scalars logged with the step that is under way; nothing is waited for.

    From now on they are in `trainer.callback_metrics` and `trainer.logged_metrics` too, on their device until
    `read_step`. At the end of the step they are written to the loggers, by `RunCheckpoint` or the `Task`.
    """
    scalars = {n: x.detach() if isinstance(x, Tensor) else torch.tensor(x) for n, x in numbers.items()}
    step = logged_step(trainer)
    pending = _PENDING.setdefault(trainer, _Pending(step))
    if pending.step != step:  # what an interrupted fit of this Trainer has left
        pending = _PENDING[trainer] = _Pending(step)
    pending.numbers.update(scalars)
    _publish(trainer, scalars)


def read_step(trainer: Trainer) -> dict[str, float]:
    """The numbers of the step so far; new ones are copied from their device together, which waits for it."""
    if trainer not in _PENDING:
        return {}
    numbers = _PENDING[trainer].numbers
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, number in numbers.items():
        if isinstance(number, Tensor):
            by_device.setdefault(number.device, {})[name] = number
    for scalars in by_device.values():
        # of several types the widest, which holds all values exactly
        stacked = torch.stack([number.reshape(()) for number in scalars.values()])
        read = stacked.tolist()
        numbers.update(zip(scalars, read, strict=True))
        _publish(trainer, dict(zip(scalars, torch.tensor(read, dtype=stacked.dtype).unbind(), strict=True)))
    return dict(numbers)  # type: ignore[arg-type]


def write_step(trainer: Trainer) -> None:
    """Log the numbers of the step that has ended, with its epoch, and forget them."""
    if trainer.loggers and (numbers := read_step(trainer)):
        log_directly(trainer, {**numbers, "epoch": trainer.current_epoch})
        for logger in trainer.loggers:
            logger.save()
    _PENDING.pop(trainer, None)


def log_directly(trainer: Trainer, metrics: Mapping[str, Any], step: int | None = None) -> None:
    """Log numbers of this step (or of `step`, as `logged_step` gave it then) to the loggers: Lightning takes half a
    millisecond for each, and logs it repeatedly."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=logged_step(trainer) if step is None else step)


def logged_step(trainer: Trainer) -> int:
    """The number under which loggers get what is logged now."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def _publish(trainer: Trainer, numbers: Mapping[str, Tensor]) -> None:
    trainer.callback_metrics.update(numbers)
    trainer.logged_metrics.update(numbers)
