"""Checkpoints of sharded strategies: every process writes its part, and reads what it needs."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ovi_lab.checkpoints.folder import Checkpoint
from ovi_lab.checkpoints.lightning_io import FolderCheckpointIO, all_or_nothing, facts_of
from ovi_lab.checkpoints.sharded import AVERAGE, BUFFER, WEIGHT, FlatSlice, shard_name, write_pieces
from ovi_lab.checkpoints.state import OPTIMIZER_SCALARS, TrainingState, plain_content, training_state
from ovi_lab.errors import UserError
from ovi_lab.optim.fused import IMPLEMENTATION
from ovi_lab.strategies.base import Strategy
from ovi_lab.strategies.process_groups import everyone, from_first
from ovi_lab.strategies.shares import Shares


class ShardedCheckpoints(Strategy):
    """Mixin for a sharded Lightning strategy: writes and reads checkpoints by what `shares` says this process holds.

    A checkpoint of this strategy loads in any other, on any number of processes, and the other way round.
    """

    checkpoint_io: Any
    partitioned = True
    _resumed: TrainingState
    _resumed_from: Path | None = None

    @abstractmethod
    def torch_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimiser whose groups hold the hyperparameters."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    # ---- saving

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: what Lightning would gather stays where it is until it is written."""
        return {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The groups' hyperparameters; the rest is in the shards."""
        own = self.torch_optimizer()
        groups = [] if own is None else own.param_groups
        return {"state": {}, "param_groups": [{k: v for k, v in g.items() if k != "params"} for g in groups]}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """Every process writes its part, then the first one lists them all; all or nothing, on every process."""
        io: FolderCheckpointIO = self.checkpoint_io
        path = Path(from_first(str(filepath)))
        temporary = path.with_name(f".{path.name}.shared.tmp")
        content = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "ema_state_dict")}
        # read on every process: some strategies gather for it
        shares = self.shares()
        content[OPTIMIZER_SCALARS] = {n: v for each in everyone(shares.scalars()) for n, v in each.items()}

        def begin() -> None:
            if self.is_global_zero:
                shutil.rmtree(temporary, ignore_errors=True)
                (temporary / "shards").mkdir(parents=True)

        def own() -> dict[str, Any]:
            name = shard_name(self.global_rank)
            write_pieces(temporary / name, self._pieces(shares))
            return {name: facts_of(temporary / name)}

        _together(begin, temporary, path)
        listed = _together(own, temporary, path)
        known = {name: facts for each in listed for name, facts in each.items()}

        def finish() -> None:
            if self.is_global_zero:
                io.complete(temporary, path, content, known)

        _together(finish, temporary, path)

    def _pieces(self, shares: Shares) -> Iterator[FlatSlice]:
        from ovi_lab.strategies.ema import EMA

        callbacks = self.lightning_module.trainer.callbacks
        averages: Mapping[str, torch.Tensor] = next((c.average for c in callbacks if isinstance(c, EMA)), {})
        slots = shares.slots()
        for name, share in shares.by_name.items():
            if not share.written:
                continue
            yield FlatSlice(WEIGHT, name, share.shape, share.start, shares.read(name))
            if name in averages:
                yield FlatSlice(AVERAGE, name, share.shape, share.start, averages[name])
            if share.trained and share.count:
                for slot in slots:
                    yield FlatSlice(slot, name, share.shape, share.start, shares.read(name, slot))
        if self.is_global_zero:
            for name, tensor in self._buffers(shares):
                yield FlatSlice(BUFFER, name, tuple(tensor.shape), 0, tensor.reshape(-1))

    def _buffers(self, shares: Shares) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor of what the module stores besides parameters."""
        held = self.lightning_module.state_dict(keep_vars=True)
        return ((name, tensor.detach()) for name, tensor in held.items() if name not in shares.by_name)

    # ---- loading

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Everything but tensors of weights and optimiser; those are read where they are needed."""
        opened = Checkpoint.open(from_first(str(checkpoint_path)))
        content = plain_content(opened)
        self._resumed = training_state(opened, content)
        self._resumed_from = opened.path
        return content

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """This process's shares of weights, read from whatever layout they are in; averages go to the EMA."""
        shares, state = self.shares(), self._resumed
        for name, share in shares.by_name.items():
            self._check(state.shape(WEIGHT, name), share.shape, name)
            if share.count:
                shares.write(name, state.read(WEIGHT, name, share.start, share.count))
        shares.publish()
        for name, tensor in self._buffers(shares):
            kind = BUFFER if state.shape(BUFFER, name) is not None else WEIGHT
            self._check(state.shape(kind, name), tuple(tensor.shape), name)
            tensor.copy_(state.read(kind, name).reshape(tensor.shape))

    def load_averages(self) -> dict[str, torch.Tensor]:
        if self._resumed_from is None:
            return {}
        shares, state = self.shares(), self._resumed
        return {
            name: state.read(AVERAGE, name, share.start, share.count).clone()
            for name, share in shares.by_name.items()
            if share.trained and state.shape(AVERAGE, name) is not None
        }

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """This process's shares of the optimiser's state, and its hyperparameters."""
        shares, state = self.shares(), self._resumed
        slots = state.slots()
        if slots:
            shares.make_slots(slots, state.scalars)
        for name, slot in product(shares.trained(), slots):
            share = shares.by_name[name]
            if share.count and state.shape(slot, name) is not None:
                shares.write(name, state.read(slot, name, share.start, share.count), slot)
        optimizer = self.torch_optimizer()
        saved = checkpoint["optimizer_states"][0]["param_groups"]
        if optimizer is not None:
            if len(saved) != len(optimizer.param_groups):
                raise UserError(
                    f"checkpoint {self._resumed_from} has {len(saved)} groups of parameters, this run has "
                    f"{len(optimizer.param_groups)}: it is of another optimiser or freeze rule"
                )
            for group, values in zip(optimizer.param_groups, saved, strict=True):
                group.update({k: v for k, v in values.items() if k not in ("params", *IMPLEMENTATION)})

    def _check(self, stored: tuple[int, ...] | None, own: tuple[int, ...], name: str) -> None:
        if stored != own:
            state = "lacks it" if stored is None else f"has it as {list(stored)}"
            raise UserError(
                f"checkpoint {self._resumed_from} is of another model or stage: {name} is {list(own)} here, and the "
                f"checkpoint {state}; begin from its weights with init_from, or name its own experiment"
            )


def _together(work: Any, temporary: Path, path: Path) -> list[Any]:
    """Do it on every process; where one fails, all fail with its reason, and nothing is left.

    Returns:
        Every process's result.
    """
    result, problem = None, None
    try:
        result = work()
    except Exception as error:
        problem = error
    outcomes = everyone((result, None if problem is None else str(problem)))
    failed = [(rank, text) for rank, (_, text) in enumerate(outcomes) if text is not None]
    if failed:
        rank, text = failed[0]
        with all_or_nothing(temporary, path):
            if problem is not None:
                raise problem
            raise UserError(f"checkpoint {path} was not written: process {rank} failed ({text})")
    return [result for result, _ in outcomes]
