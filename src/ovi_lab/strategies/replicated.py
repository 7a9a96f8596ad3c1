"""One process, and DDP: every process holds the whole model and the whole optimiser; the first one saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from ovi_lab.checkpoints.folder import Checkpoint
from ovi_lab.checkpoints.state import OPTIMIZER_NAMES, ready_optimizer_state, training_state
from ovi_lab.errors import UserError
from ovi_lab.optim.fused import IMPLEMENTATION
from ovi_lab.strategies.base import Strategy
from ovi_lab.strategies.process_groups import alone_on_first, from_first


class ReplicatedModel(Strategy):
    """Mixin for a Lightning strategy: the defaults of `Strategy`; checkpoints of sharded strategies are read too."""

    def _optimizer_names(self, optimizer: torch.optim.Optimizer) -> list[str]:
        names = {id(p): n for n, p in self.lightning_module.named_parameters()}
        return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """As Lightning does, with the names of the optimiser's parameters; what the first process cannot write fails
        on all of them, with its reason."""
        if self.optimizers:
            checkpoint[OPTIMIZER_NAMES] = self._optimizer_names(self.optimizers[0])
        save, problem = super().save_checkpoint, None  # type: ignore[misc]

        def write() -> None:
            nonlocal problem
            try:
                save(checkpoint, filepath, storage_options)
            except UserError as error:
                problem = error

        alone_on_first(write)
        if said := from_first("" if problem is None else str(problem)):
            raise problem or UserError(said)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The first process's choice of a checkpoint, on all of them."""
        path = from_first(str(checkpoint_path))
        self._resumed_from = path
        return super().load_checkpoint(path, weights_only)  # type: ignore[misc]

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Whatever strategy wrote it; parameters are found by name."""
        optimizer = self.optimizers[0]
        opened = Checkpoint.open(self._resumed_from)
        if not opened.sharded and OPTIMIZER_NAMES not in checkpoint:
            super().load_optimizer_state_dict(checkpoint)  # type: ignore[misc]
            return
        saved = checkpoint["optimizer_states"][0]["param_groups"]
        own = optimizer.state_dict()["param_groups"]
        kept = ("params", *IMPLEMENTATION)
        groups = [
            {**new, **{k: now[k] for k in kept if k in now}} for new, now in zip(saved, own, strict=True)
        ]
        names = self._optimizer_names(optimizer)
        state = ready_optimizer_state(training_state(opened, checkpoint), names, groups)
        optimizer.load_state_dict(state)


class SingleProcess(ReplicatedModel, SingleDeviceStrategy):
    """One process on one device."""


class ReplicatedProcesses(ReplicatedModel, DDPStrategy):
    """Distributed data parallel: gradients of what is trained are averaged over all processes, nothing else.

    Micro-batches accumulate in DDP's buckets. Lightning forgets the gradients of a step, and those of the next step's
    first passes, which DDP does not reduce, would be new tensors beside the buckets: all gradients twice.
    """

    _views: Mapping[nn.Parameter, Tensor] = {}
    """Of each trained parameter, its gradient's place in a bucket, once a pass has been reduced."""
    _begins_step = False

    def _keep_views(self) -> None:
        gradients = {p: p.grad for p in self.lightning_module.parameters() if p.requires_grad}
        self._views = {p: g for p, g in gradients.items() if g is not None and g.is_contiguous()}

    def _free_views(self) -> None:
        """Before DDP makes its buckets anew, in the order in which gradients came, so that it frees the old ones first.

        The gradients are then zeros without memory, which DDP copies to the new buckets.
        """
        for parameter in self._views:
            parameter.grad = torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(
                parameter.shape
            )
        self._views = {}

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Forward pass and loss. DDP makes its buckets anew in the first one after its first reduction."""
        replicated: Any = self.model
        remakes = self._begins_step and bool(self._views) and not replicated._has_rebuilt_buckets
        self._begins_step = False
        if remakes:
            self._free_views()
        out = super().training_step(*args, **kwargs)
        if remakes:
            self._keep_views()
        return out

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Begin a step whose passes accumulate with zeros in the buckets."""
        super().pre_backward(closure_loss)
        if self.lightning_module.trainer.accumulate_grad_batches > 1:
            forgotten = {p: view for p, view in self._views.items() if p.grad is None}
            if forgotten:
                torch._foreach_zero_(list(forgotten.values()))
            for parameter, view in forgotten.items():
                parameter.grad = view

    def post_backward(self, closure_loss: Tensor) -> None:
        """Remember the buckets, once they are there."""
        super().post_backward(closure_loss)
        trainer = self.lightning_module.trainer
        if (
            not self._views
            and trainer.accumulate_grad_batches > 1
            and not trainer.fit_loop._should_accumulate()
        ):
            self._keep_views()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """Take a step, at whose end the next one begins."""
        out = super().optimizer_step(*args, **kwargs)
        self._begins_step = True
        return out

    def teardown(self) -> None:
        """Let go of the buckets."""
        self._views = {}
        super().teardown()
