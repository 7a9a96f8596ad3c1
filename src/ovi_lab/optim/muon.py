"""Muon for matrices and AdamW for everything else, as one optimiser.

One `torch.optim.Optimizer` with two kinds of groups keeps gradient clipping, schedules and checkpoints as simple
as with AdamW alone. Orthogonalisation is batched over equal shapes: a twin tower has dozens of equal matrices, and
on small ones the cost is the number of calls, not the arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ovi_lab.errors import UserError

# Coefficients of the quintic iteration in Jordan et al., "Muon: an optimizer for hidden layers" (2024): chosen for
# the steepest slope at zero, so that five steps bring every singular value near one.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices_NRC: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix of each, approximately (Newton–Schulz, quintic).

    Args:
        matrices_NRC: batch of matrices [N, rows, columns].
        steps: iterations; singular values end within about 0.7 to 1.2.
    """
    a, b, c = _QUINTIC
    X = matrices_NRC
    tall = X.shape[-2] > X.shape[-1]
    if tall:
        X = X.mT
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = X @ X.mT
        X = a * X + torch.baddbmm(b * gram, gram, gram, alpha=c) @ X
    return X.mT if tall else X


def gradients_of(params: Iterable[Tensor]) -> list[Tensor]:
    """Gradients of parameters that have one."""
    return [p.grad for p in params if p.grad is not None]


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised per matrix, with AdamW for the groups that say `use_muon: False`.

    Args:
        params: groups as made by `parameter_groups`; each needs `use_muon`.
        lr: step size of the Muon groups, in units of an update whose RMS is set by `sqrt(max(1, rows/cols))`.
        momentum: Nesterov momentum of the Muon groups.
        adamw_lr, betas, eps: of the AdamW groups.
        weight_decay: decoupled, for both kinds.

    Raises:
        UserError: a Muon group holds a parameter that is not a matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        adamw_lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        steps: int = 5,
    ) -> None:
        groups = []
        for group in params:
            group = dict(group) if isinstance(group, dict) else {"params": [group]}
            use_muon = group.setdefault("use_muon", False)
            group.setdefault("lr", lr if use_muon else adamw_lr)
            groups.append(group)
        defaults = {
            "momentum": momentum,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "steps": steps,
            "use_muon": False,
        }
        super().__init__(groups, defaults)
        for group in self.param_groups:
            if group["use_muon"] and any(p.ndim != 2 for p in group["params"]):
                shapes = sorted({tuple(p.shape) for p in group["params"] if p.ndim != 2})
                raise UserError(
                    f"Muon takes matrices only, got shapes {shapes}: put those in a group with AdamW"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all groups; `closure` re-evaluates the loss, as in every torch optimiser."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            if not with_gradient:
                continue
            if group["use_muon"]:
                self._muon(group, with_gradient)
            else:
                self._adamw(group, with_gradient)
        return loss

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for p in params:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            by_shape[tuple(p.shape)].append(p)
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, gradients_of(params), 1 - group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for (rows, columns), same in by_shape.items():
            gradients = torch.stack(gradients_of(same))
            momentum = torch.stack([self.state[p]["momentum"] for p in same])
            update = orthogonalise(gradients.lerp(momentum, group["momentum"]), group["steps"])
            scale = max(1.0, rows / columns) ** 0.5
            torch._foreach_add_(same, list(update.unbind()), alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
        beta1, beta2 = group["betas"]
        gradients = gradients_of(params)
        steps = [self.state[p]["step"] for p in params]
        first = [self.state[p]["exp_avg"] for p in params]
        second = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_add_(steps, 1)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        # All parameters of a group have stepped together, except those that had no gradient for a while.
        corrections = [(1 - beta1 ** float(s), (1 - beta2 ** float(s)) ** 0.5) for s in steps]
        denominator = torch._foreach_sqrt(second)
        torch._foreach_div_(denominator, [root for _, root in corrections])
        torch._foreach_add_(denominator, group["eps"])
        torch._foreach_addcdiv_(params, first, denominator, [-group["lr"] / c1 for c1, _ in corrections])
