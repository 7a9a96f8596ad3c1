"""Norms of gradients by part of the model, wherever the strategy keeps them: whole, as DTensors or partitioned."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from ovi_lab.strategies.base import Strategy, strategy_of
from ovi_lab.tasks.step_log import log_with_step
from ovi_lab.tasks.task import log_interval, steps_now


@cache
def part_of(name: str) -> str:
    """`fusion`, `video_model` or `audio_model` for a TwinDiT's parameters; the first component of other names."""
    if "_fusion" in name:
        return "fusion"
    return next((tower for tower in ("video_model", "audio_model") if tower in name), name.partition(".")[0])


@torch.no_grad()
def gradient_norms(strategy: Strategy, device: torch.device) -> dict[str, Tensor]:
    """L2 norm of the gradient of each part, over all ranks: float32 scalars on `device`, computed without waiting.

    Every rank must call it at the same time, after the backward pass, where gradients are partitioned.

    Args:
        strategy: of the trainer.
        device: where the ranks' sums are reduced.
    """
    held: dict[tuple[Any, ...], dict[str, list[Tensor]]] = {}
    for gradient in strategy.gradients():
        values = held.setdefault(gradient.groups, defaultdict(list))[part_of(gradient.name)]
        if gradient.values is not None and gradient.values.numel():
            values.append(gradient.values)
    if list(held) == [()] and all(v.device == device for values in held[()].values() for v in values):
        # whole gradients on the device: the quickest way
        return {part: _norm(values, device) for part, values in held[()].items()}
    squares: dict[str, Tensor] = {}
    for groups, parts in held.items():
        sums = torch.stack([_square(values, device) for values in parts.values()])
        for group in groups:
            distributed.all_reduce(sums, group=group)
        for part, square in zip(parts, sums, strict=True):
            squares[part] = squares.get(part, 0) + square
    return {part: square.sqrt() / strategy.gradient_scale for part, square in squares.items()}


@torch.no_grad()
def whole_norm(strategy: Strategy, optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor | None:
    """L2 norm of all that is stepped, as `torch.nn.utils.clip_grad_norm_` takes it, to the last digit.

    None where a process holds only a part of the gradients.
    """
    if strategy.partitioned:
        return None
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    return torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]).to(device)


def _norm(values: list[Tensor], device: torch.device) -> Tensor:
    if not values:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(values, 2, dtype=torch.float32)).norm()


def _square(values: list[Tensor], device: torch.device) -> Tensor:
    if not values:
        return torch.zeros((), device=device)
    norms = torch.stack(torch._foreach_norm(values, 2, dtype=torch.float32))
    if (
        norms.device.type == "cpu" and device.type == "cuda"
    ):  # of offloaded gradients: sent together, not waited for
        norms = norms.pin_memory()
    return norms.to(device, non_blocking=True).square().sum()


class GradientNorms(Callback):
    """Logs `grad_norm/<part>` and `grad_norm/total` before clipping, at the logger's interval.

    It must stand before `Guard` in the list of callbacks, which may clear the gradients. Under DeepSpeed each rank
    takes the norm of the partitions it holds, so that nothing is gathered for it.
    """

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not steps_now(trainer) or (trainer.global_step + 1) % log_interval(trainer):
            return
        norms = gradient_norms(strategy_of(trainer), pl_module.device)
        norms["total"] = total_norm(norms)
        log_with_step(trainer, {f"grad_norm/{part}": norm for part, norm in norms.items()})


def total_norm(norms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(norms.values())).square().sum().sqrt()
