"""A callback that adds up the gradients of all micro-batches in float64 and compares what the optimiser is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from ovi_lab.strategies.base import strategy_of
from ovi_lab.tasks.task import steps_now


class ExactGradients(Callback):
    """Writes `<run>/exact.json`: of each step the relative error (L2) of the gradient that is stepped.

    Gradients are taken from autograd, in the type that the network computes them in. FSDP2 hands autograd other tensors
    than the parameters, so that nothing is found under it and nothing written.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.errors: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient, name=name: self._add(name, gradient))

    def _add(self, name: str, gradient: Tensor) -> None:
        more = gradient.detach().double().flatten()
        self.sums[name] = self.sums.get(name, torch.zeros_like(more)) + more

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if not steps_now(trainer) or not self.sums:
            return
        strategy = strategy_of(trainer)
        shares = strategy.shares()
        squares = torch.zeros(2, dtype=torch.float64)
        for gradient in strategy.gradients():
            share = shares.by_name[gradient.name]
            exact = self.sums.get(gradient.name, torch.zeros(share.numel, dtype=torch.float64))
            distributed.all_reduce(exact)
            exact = exact[share.start : share.start + share.count] / distributed.get_world_size()
            if gradient.values is not None:
                found = gradient.values.detach().double().flatten()[: share.count]
                squares += torch.stack([(found - exact).square().sum(), exact.square().sum()])
        distributed.all_reduce(squares)
        self.errors.append(float((squares[0] / squares[1]).sqrt()))
        self.sums = {}
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "exact.json").write_text(json.dumps(self.errors))
