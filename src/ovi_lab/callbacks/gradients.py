"""Norms of gradients by part of the model, wherever the strategy keeps them: whole, as DTensors, in ZeRO's pieces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Piece:
    """What this rank holds of one parameter's gradient.

    Args:
        part: of the model, see `part_of`.
        values: the gradient or this rank's share of it; None where it holds none.
        groups: process groups over which the pieces lie spread; none where each rank has it whole.
    """

    part: str
    values: Tensor | None
    groups: tuple[Any, ...] = ()


def part_of(name: str) -> str:
    """`fusion`, `video_model` or `audio_model` for a TwinDiT's parameters; the first component of other names."""
    if "_fusion" in name:
        return "fusion"
    return next((tower for tower in ("video_model", "audio_model") if tower in name), name.partition(".")[0])


_trained: WeakKeyDictionary[nn.Module, list[tuple[str, nn.Parameter]]] = WeakKeyDictionary()


def trained_by_part(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What is trained, with its part of the model; looked up once, for walking through a model costs milliseconds."""
    if module not in _trained:
        _trained[module] = [(part_of(n), p) for n, p in module.named_parameters() if p.requires_grad]
    return _trained[module]


def pieces_of(module: nn.Module) -> Iterator[Piece]:
    """This rank's gradients, between the backward pass and the optimiser's step.

    The same parts and groups come in the same order on every rank, also where a rank holds nothing of them.
    """
    for part, parameter in trained_by_part(module):
        yield Piece(part, *_held(parameter))


def _held(parameter: Any) -> tuple[Tensor | None, tuple[Any, ...]]:
    if hasattr(parameter, "ds_id"):
        # DeepSpeed's ZeRO 3; equal pieces, the last one filled up with zeros
        from deepspeed.utils import safe_get_local_grad

        return safe_get_local_grad(parameter), (parameter.ds_process_group,)
    if hasattr(parameter, "_hp_mapping"):
        # ZeRO 1 and 2: a rank holds the stretch of the parameter that its optimiser updates, or nothing of it.
        # DeepSpeed's public call for it, `safe_get_full_grad`, would put every gradient together on every rank.
        mapping = parameter._hp_mapping
        if mapping is None:
            return None, (parameter._dp_group,)
        stretch = mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        address = mapping.lp_fragment_address
        if stretch is not None and stretch.numel() != address.numel:
            stretch = stretch.flatten().narrow(0, address.start, address.numel)
        return stretch, (parameter._dp_group,)
    if isinstance(parameter, DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        groups = tuple(mesh.get_group(i) for i, place in enumerate(placements) if place.is_shard())
        gradient: Any = parameter.grad
        return None if gradient is None else gradient.to_local(), groups
    return parameter.grad, ()


def is_sharded(module: nn.Module) -> bool:
    """Whether a forward pass needs every rank, as parameters lie spread over them (FSDP2, ZeRO 3)."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in module.parameters())


@torch.no_grad()
def gradient_norms(module: nn.Module, device: torch.device, loss_scale: float = 1.0) -> dict[str, Tensor]:
    """L2 norm of the gradient of each part, over all ranks: float32 scalars on `device`, computed without waiting.

    Every rank must call it at the same time where gradients are spread.

    Args:
        module: after the backward pass.
        device: where the ranks' sums meet.
        loss_scale: by which ZeRO's gradients are still too large (fp16 only).
    """
    whole = _whole_norms(module, device) if loss_scale == 1.0 else None
    if whole is not None:
        return whole
    held: dict[tuple[Any, ...], dict[str, list[Tensor]]] = {}
    for piece in pieces_of(module):
        values = held.setdefault(piece.groups, defaultdict(list))[piece.part]
        if piece.values is not None and piece.values.numel():
            values.append(piece.values)
    squares: dict[str, Tensor] = {}
    for groups, parts in held.items():
        sums = torch.stack([_square(values, device) for values in parts.values()])
        for group in groups:
            distributed.all_reduce(sums, group=group)
        for part, square in zip(parts, sums, strict=True):
            squares[part] = squares.get(part, 0) + square
    return {part: square.sqrt() / loss_scale for part, square in squares.items()}


@torch.no_grad()
def whole_norm(trainer: Trainer, optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor | None:
    """L2 norm of all that is stepped, as `torch.nn.utils.clip_grad_norm_` takes it, to the last digit.

    None where a process holds only a part of the gradients.
    """
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    if zero_optimizer(trainer) is not None or any(isinstance(p, DTensor) for p in trained):
        return None
    return torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]).to(device)


def _whole_norms(module: nn.Module, device: torch.device) -> dict[str, Tensor] | None:
    """The same where each process has every gradient whole on `device`, by the quickest way; None where not."""
    by_part: dict[str, list[Tensor]] = {}
    for part, parameter in trained_by_part(module):
        gradient = parameter.grad
        if (
            type(parameter) is not nn.Parameter
            or hasattr(parameter, "ds_id")
            or hasattr(parameter, "_hp_mapping")
            or (gradient is not None and gradient.device != device)
        ):
            return None
        held = by_part.setdefault(part, [])
        if gradient is not None:
            held.append(gradient)
    return {
        part: torch.stack(torch._foreach_norm(g, 2, dtype=torch.float32)).norm()
        if g
        else torch.zeros((), device=device)
        for part, g in by_part.items()
    }


def _square(values: list[Tensor], device: torch.device) -> Tensor:
    if not values:
        return torch.zeros((), device=device)
    norms = torch._foreach_norm(values, 2, dtype=torch.float32)
    return torch.stack([n.to(device) for n in norms]).square().sum()


def zero_optimizer(trainer: Trainer) -> Any | None:
    """DeepSpeed's optimiser, which clips and steps by itself; None under other strategies."""
    engine: Any = trainer.model
    if engine is None or not hasattr(engine, "get_global_grad_norm"):
        return None
    return engine.optimizer


def loss_scale(trainer: Trainer) -> float:
    """By how much gradients are still too large before the optimiser's step."""
    return float(getattr(zero_optimizer(trainer), "loss_scale", 1.0))


class GradientNorms(Callback):
    """Logs `grad_norm/<part>` and `grad_norm/total` before clipping, at the logger's interval.

    It must stand before `Guard` in the list of callbacks, which may clear the gradients. Under DeepSpeed each rank
    takes the norm of the pieces it holds, so that nothing is put together for it.
    """

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure what the step that is about to be taken rests on."""
        if trainer.fit_loop._should_accumulate():
            return  # DeepSpeed counts micro-batches itself and is asked to step after each
        if (trainer.global_step + 1) % max(1, getattr(trainer, "log_every_n_steps", 1)):
            return
        norms = gradient_norms(pl_module, pl_module.device, loss_scale(trainer))
        norms["total"] = total_norm(norms)
        pl_module.log_dict({f"grad_norm/{part}": norm for part, norm in norms.items()})


def total_norm(norms: dict[str, Tensor]) -> Tensor:
    """The norm over all parts."""
    return torch.stack(list(norms.values())).square().sum().sqrt()
