"""Memory of a forward and backward pass besides weights and optimiser, measured on the meta device.

The real model runs, forward and backward, on shapes alone while `LiveMemory` counts. Of many equal blocks a few are run
and the rest follow, since each adds the same: to what is kept for the backward pass, and to the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ovi_lab.flow import flow_matching_loss, interpolate
from ovi_lab.models import Given, TwinDiT
from ovi_lab.models.config import Modality
from ovi_lab.models.given import frames_of
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.flops import checkpointing
from ovi_lab.planning.live_memory import TrainingMemory, as_trained

META = torch.device("meta")
LONGEST_PERIOD = 6
"""The longest period of repeating blocks that is tried, as every second fused; without one every block is run."""


@dataclass(frozen=True)
class PassMemory:
    """Peak bytes of the pass of one micro-batch."""

    forward: int
    """Until the backward pass begins."""
    activations: int
    """Peak of the whole pass where every gradient of a parameter is freed as soon as it is made."""
    with_gradients: int
    """Peak of the whole pass where gradients stay, and there were none before."""
    outside: int
    """`activations` of the model without its blocks."""
    block: int = 0
    """What the last block adds to `activations`, freed once it has been differentiated."""
    arriving: int = 0
    """Most that is alive when a parameter's gradient has been made, without it."""


@dataclass(frozen=True)
class Pass:
    """How a micro-batch is computed.

    Args:
        clip: the shape of each clip.
        clips: clips of a micro-batch.
        device: whose attention kernel, "cuda" or "cpu".
        autocast: type of the products, None for that of the weights.
        text_tokens: of each caption; None: as many as the towers take.
        text_is_trained: captions get a gradient.
        first_frame_clean: the first video frame is given.
        by_deepspeed: linear layers are those of ZeRO 3.
    """

    clip: ClipShape
    clips: int = 1
    device: str = "cuda"
    autocast: torch.dtype | None = None
    text_tokens: int | None = None
    text_is_trained: bool = False
    first_frame_clean: bool = False
    by_deepspeed: bool = False


def measure(model: TwinDiT, work: Pass) -> PassMemory:
    """The memory of one micro-batch; `model` is on the meta device, in the type it trains in, and frozen as it is."""

    @cache
    def of_blocks(count: int, keep: bool = False) -> _Peaks:
        """The peaks of the model's first `count` blocks."""
        full_count, model.num_layers = model.num_layers, count
        try:
            return _peaks(model, work, keep)
        finally:
            model.num_layers = full_count

    forward, activations, _, arriving = _over_blocks(model, of_blocks)
    _, _, late, _ = _over_blocks(model, lambda count: of_blocks(count, keep=True))
    last = _enough(model)[-1]
    block = of_blocks(last)[1] - of_blocks(last - 1)[1]
    return PassMemory(forward, activations, max(activations, late), of_blocks(0)[1], block, arriving)


_Peaks = tuple[int, ...]


def _over_blocks(model: TwinDiT, of_blocks: Callable[[int], _Peaks]) -> _Peaks:
    """The peaks of the whole model, extrapolated from as few blocks as they need."""
    few, *rest = _enough(model)
    if not rest:
        return of_blocks(few)
    (more,) = rest
    times = (model.num_layers - few) // (more - few)
    return tuple(a + (b - a) * times for a, b in zip(of_blocks(few), of_blocks(more), strict=True))


def _enough(model: TwinDiT) -> tuple[int, ...]:
    """Numbers of blocks from which the peaks of all follow: two of them, a period apart, or all blocks."""
    count = model.num_layers
    period = _period([_kind(model, index) for index in range(count)])
    if period is None or count < 4 * period:
        return (count,)
    few = count % period + 2 * period
    return few, few + period


def _kind(model: TwinDiT, index: int) -> Any:
    """A key that blocks of equal memory share."""
    blocks = [list(model.tower(m).each_block())[index] for m in model.tower_configs]
    parameters = [(n, p.shape, p.requires_grad) for block in blocks for n, p in block.named_parameters()]
    return checkpointing(model, index), parameters


def _period(kinds: Sequence[Any]) -> int | None:
    """The shortest distance at which blocks are equal."""
    for period in range(1, LONGEST_PERIOD + 1):
        if all(a == b for a, b in zip(kinds, kinds[period:], strict=False)):
            return period
    return None


def _peaks(model: TwinDiT, work: Pass, keep: bool) -> _Peaks:
    """Peak bytes: of the forward pass, of the whole pass, since the second block's gradients began, as any were made.

    With `keep` gradients stay. In the backward pass what is alive is largest at its beginning, when no gradient is
    there yet, or at its end, with those of all blocks but the first.
    """
    model.forget_tables()  # so that each pass makes and counts its own
    before: list[int] = []
    arriving = 0
    first = [block for m in model.tower_configs for block in list(model.tower(m).each_block())[:2]]
    early = {id(p) for block in first for p in block.parameters()}

    with TrainingMemory(META, model) as live:

        def arrived(parameter: Tensor) -> None:
            nonlocal arriving
            if not keep:
                parameter.grad = None
                arriving = max(arriving, live.now)
            elif not before and id(parameter) in early:
                before.append(live.peak)
                live.peak = live.now

        hooks = [p.register_post_accumulate_grad_hook(arrived) for p in model.parameters() if p.requires_grad]
        try:
            forward = _step(model, work, live)
        finally:
            for hook in hooks:
                hook.remove()
            model.zero_grad(set_to_none=True)
    return forward, max([live.peak, *before]), live.peak, arriving


def _step(model: TwinDiT, work: Pass, live: TrainingMemory) -> int:
    """Forward, loss and backward of a batch, as `FlowMatchingTask` has them; most that was alive before backward."""
    towers = model.tower_configs
    sigma = torch.empty(work.clips, device=META)
    shapes: dict[Modality, tuple[int, ...]] = {}
    if "video" in towers and work.clip.video is not None:
        shapes["video"] = (work.clips, towers["video"].in_dim, *work.clip.video)
    if "audio" in towers and work.clip.audio is not None:
        shapes["audio"] = (work.clips, work.clip.audio, towers["audio"].in_dim)
    first = next(iter(towers.values()))
    tokens = min(work.text_tokens or first.text_len, first.text_len)
    text = [
        torch.empty(tokens, first.text_dim, device=META, requires_grad=work.text_is_trained)
        for _ in range(work.clips)
    ]
    given: dict[str, Any] = {}
    targets: dict[Modality, Tensor] = {}
    for modality, shape in shapes.items():
        latents = torch.empty(shape, device=META)
        given[modality], targets[modality] = interpolate(latents, torch.randn_like(latents), sigma)
        given[f"t_{modality}"], given[f"text_{modality}"] = 1000.0 * sigma, text
    begins = work.first_frame_clean and "video" in shapes
    clean = Given.first_frame(given["video"]) if begins else Given()
    # still there in the backward pass, where checkpointing runs blocks again
    with as_trained(work.device, work.autocast, work.by_deepspeed) as kernels:
        out = model(**given, given=clean)
        losses = [
            flow_matching_loss(getattr(out, m), target, scored=clean.scored(m, frames_of(target, m))).mean
            for m, target in targets.items()
        ]
        loss = torch.stack(losses).sum()
        kernels.forget()
        forward = live.peak
        if loss.requires_grad:
            loss.backward()
    return forward


def optimiser_step(
    parameters: Sequence[nn.Parameter], make: Callable[[], torch.optim.Optimizer]
) -> tuple[int, int]:
    """Bytes that an optimiser keeps for these parameters (on meta), and takes for a moment while it steps."""
    held = nn.ParameterList(parameters)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    grads = nn.ParameterList(
        [nn.Parameter(p.grad, requires_grad=False) for p in parameters if p.grad is not None]
    )
    try:
        optimizer = make()
        with TrainingMemory(META, held, grads) as live:
            optimizer.step()
            state = live.now
            live.peak = live.now
            optimizer.step()
        return state, live.peak - state
    finally:
        for parameter in parameters:
            parameter.grad = None
