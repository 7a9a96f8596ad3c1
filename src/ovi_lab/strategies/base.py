"""The strategy protocol: what tasks, callbacks, data and runs ask of a Lightning strategy beyond Lightning's interface.

A strategy of ovi_lab is a class of Lightning's with `Strategy` mixed in before it. The defaults are those of a strategy
that keeps the model and the optimiser whole on every process; sharded strategies override what differs. `strategy_of`
gives a trainer's strategy under this protocol, also where it is a plain one of Lightning's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from ovi_lab.models import TwinDiT
from ovi_lab.optim import fused_where_possible
from ovi_lab.strategies.initial_values import Values, place_whole
from ovi_lab.strategies.shares import Gradient, Shares, TorchShares


class Strategy:
    """Mixin for a Lightning strategy: placement, data parallelism, shares of parameters, gradients, discarded steps."""

    # what Lightning's class gives
    lightning_module: Any
    optimizers: Any
    precision_plugin: Any
    root_device: torch.device
    global_rank: int
    world_size: int
    is_global_zero: bool

    sequence_parallel: int = 1
    """Processes with successive ranks that compute each clip together (see `models.sequence_parallel`)."""
    partitioned: bool = False
    """Whether a process holds only a part of the weights, the gradients or the optimiser's state."""
    discarded_at: int = -1
    """`trainer.global_step` after the last step that was discarded, so that an average of weights leaves it out too."""
    _shares: Shares | None = None

    def setup(self, trainer: Any) -> None:
        """Set up as Lightning does; shares taken before belong to parameters that may have been replaced."""
        self._shares = None
        super().setup(trainer)  # type: ignore[misc]

    # ---- building the model

    def place(self, model: TwinDiT, values: Values) -> None:
        """Give each parameter of a model on the meta device its value, or this process's share of it."""
        place_whole(model, values, self.root_device)

    def place_other(self, module: nn.Module) -> None:
        """Place another trained module, which has its values already; here Lightning moves it to the device."""

    def share_sequences(self, model: TwinDiT) -> None:
        """Split each clip over the processes of a sequence-parallel group; every process calls it, once."""
        if self.sequence_parallel > 1:
            from ovi_lab.models.sequence_parallel import enable_sequence_parallel, sequence_group

            enable_sequence_parallel(model, sequence_group(self.sequence_parallel))

    # ---- data

    @property
    def data_place(self) -> tuple[int, int]:
        """Data-parallel rank of this process, and their number; a sequence-parallel group shares one."""
        return self.global_rank // self.sequence_parallel, self.world_size // self.sequence_parallel

    # ---- parameters and gradients

    @property
    def needs_all_ranks(self) -> bool:
        """Whether a forward pass is collective, as each process holds only a part of the parameters."""
        return False

    def shares(self) -> Shares:
        """This process's shares of the module's parameters, as it is set up."""
        if self._shares is None:
            self._shares = self._make_shares()
        return self._shares

    def _make_shares(self) -> Shares:
        optimizer = self.optimizers[0] if self.optimizers else None
        return TorchShares(self.lightning_module, optimizer, self.is_global_zero)

    def load_averages(self) -> dict[str, Tensor]:
        """This process's shares of the averaged weights of the checkpoint resumed from, flat; empty where Lightning's
        checkpoint brings them whole, or there are none."""
        return {}

    def gradients(self) -> Iterator[Gradient]:
        """This process's shares of the gradients, between the backward pass and the optimiser's step.

        The same parameters come in the same order on every process, also where one holds nothing of them.
        """
        shares = self.shares()
        return (shares.gradient(name) for name in shares.trained())

    # ---- steps

    def optimizer_factory(self, factory: Callable[..., Any]) -> Callable[..., Any]:
        """The factory of the optimiser that steps where this strategy keeps its state."""
        if getattr(self.precision_plugin, "scaler", None) is not None:
            return factory  # a fused step would undo the scaling itself, after gradients were clipped
        return fused_where_possible(factory, self.root_device)

    @property
    def gradient_scale(self) -> float:
        """Factor by which `gradients` are still too large."""
        return 1.0

    @property
    def scales_losses(self) -> bool:
        """Whether a loss scaler discards steps by itself (fp16), so that gradients may be infinite."""
        return getattr(self.precision_plugin, "scaler", None) is not None

    def allow_discarding(self) -> None:
        """Called before training where `discard_step` may be."""

    def discard_step(self, step: int) -> None:
        """Keep the step under way from changing weights and optimiser state; `step` is the one that it leads to."""
        self.discarded_at = step
        for parameter in self.lightning_module.parameters():
            parameter.grad = None

    @property
    def has_discarded(self) -> bool:
        """Whether the step that was to be discarded really was."""
        return True


class _PlainStrategy(Strategy):
    """A strategy of Lightning's own under the protocol."""

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)


def strategy_of(trainer: Any) -> Strategy:
    """A trainer's strategy under the protocol; without a trainer that of one process on torch's default device."""
    if trainer is None:
        return _PlainStrategy(SingleDeviceStrategy(torch.get_default_device()))
    strategy: Any = trainer.strategy
    if isinstance(strategy, Strategy):
        return strategy
    if "_as_ovi_lab" not in vars(strategy):
        strategy._as_ovi_lab = _PlainStrategy(strategy)
    wrapped: Strategy = strategy._as_ovi_lab
    return wrapped
