"""Whether there is a GPU to measure on."""

from __future__ import annotations

from ovi_lab.errors import UserError


def check_gpu() -> None:
    """Raises UserError where there is none."""
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "device=cuda measures on a GPU, and torch finds none here: leave device out to rehearse without one"
        )
