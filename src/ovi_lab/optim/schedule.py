"""Learning-rate schedules as plain functions of the step."""

from __future__ import annotations

from collections.abc import Callable

from ovi_lab.common.values import check_settings
from ovi_lab.errors import UserError


def warmup_flat_decay(
    total_steps: int, warmup_steps: int = 0, flat_until: float = 1.0, final: float = 1.0
) -> Callable[[int], float]:
    """Factor on the learning rate: linear warm-up, flat, then linear to `final` at `total_steps`.

    Args:
        total_steps: optimiser steps of the run.
        warmup_steps: steps until the full rate; the first step takes 1/warmup_steps of it.
        flat_until: share of the run, in [0, 1], after which the rate falls; 1 never falls.
        final: factor reached at the last step.

    Raises:
        UserError: a value out of range.
    """
    check_settings("schedule", locals())
    if total_steps <= 0:
        raise UserError(
            f"a schedule needs the length of the run: trainer.max_steps is {total_steps}, expected > 0"
        )
    start = flat_until * total_steps

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        if step <= start or start >= total_steps:
            return warm
        progress = min(1.0, (step - start) / (total_steps - start))
        return warm * (1 + (final - 1) * progress)

    return factor
