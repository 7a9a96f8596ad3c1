"""The device that a user names."""

from __future__ import annotations

import torch

from ovi_lab.errors import UserError


def usable_device(name: str) -> str:
    """The device. Raises UserError where torch cannot use it here."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device={name} cannot be used here ({str(error).splitlines()[0]}): try device=cpu"
        ) from error
    return name
