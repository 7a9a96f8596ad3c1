"""Which parameters are trained, by named rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from ovi_lab.errors import UserError


@dataclass(frozen=True)
class FreezeRule:
    """A rule over parameter names, each pattern a regular expression searched in the name.

    Args:
        frozen: parameters that match any of these are not trained.
        trained: where given, only parameters that match one of these are trained (and are not frozen).
    """

    frozen: Sequence[str] = field(default_factory=tuple)
    trained: Sequence[str] = field(default_factory=tuple)

    def apply(self, model: nn.Module) -> tuple[int, int]:
        """Set `requires_grad` on every parameter; returns how many values are trained, and how many there are.

        Raises:
            UserError: a pattern is no regular expression or matches nothing, or nothing would be trained.
        """
        names = [n for n, _ in model.named_parameters()]
        for pattern in (*self.frozen, *self.trained):
            try:
                matched = any(re.search(pattern, n) for n in names)
            except re.error as error:
                raise UserError(f"freeze: {pattern!r} is not a regular expression ({error})") from error
            if not matched:
                raise UserError(f"freeze: {pattern!r} matches no parameter of this model, e.g. {names[-1]}")
        for name, parameter in model.named_parameters():
            frozen = any(re.search(p, name) for p in self.frozen)
            chosen = not self.trained or any(re.search(p, name) for p in self.trained)
            parameter.requires_grad_(chosen and not frozen)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if not trained:
            raise UserError(
                f"freeze: no parameter is left to train (frozen {self.frozen}, trained {self.trained})"
            )
        return trained, sum(p.numel() for p in model.parameters())
