"""The losses of an optimiser step as they are logged: over its micro-batches and over all processes."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from ovi_lab.flow import FlowLoss
from ovi_lab.models.rope import from_host
from ovi_lab.strategies.process_groups import started


class StepLosses:
    """Collects a step's losses by name, on the device.

    Every process adds under the same names in the same order.
    """

    def __init__(self) -> None:
        self._means: dict[str, list[Tensor]] = {}
        self._sums: dict[str, list[Tensor]] = {}
        self._clips: dict[str, int] = {}

    def begin(self) -> None:
        """Forget the step before."""
        self._means, self._sums, self._clips = {}, {}, {}

    def add(self, name: str, mean: Tensor) -> None:
        """The loss of a micro-batch; the step's is the mean of these."""
        self._means.setdefault(name, []).append(mean.detach())

    def add_clips(self, name: str, loss: FlowLoss) -> None:
        """A loss by clip, of which some clips may have none; the step's is the mean over those that have one."""
        own = len(loss.per_clip) if loss.counted is None else int(loss.counted.sum())
        self._sums.setdefault(name, []).append(loss.per_clip.detach().sum())
        self._clips[name] = self._clips.get(name, 0) + own

    def reduced(self) -> dict[str, Tensor]:
        """The step's losses by name, without those that no clip of any process has; collective."""
        means = {n: v[0] if len(v) == 1 else torch.stack(v).mean() for n, v in self._means.items()}
        if started() and means:
            stacked = torch.stack(list(means.values()))
            distributed.all_reduce(stacked)
            stacked /= distributed.get_world_size()
            means = dict(zip(means, stacked.unbind(), strict=True))
        if not self._sums:
            return means
        sums = torch.stack([torch.stack(values).sum() for values in self._sums.values()])
        clips = from_host(list(self._clips.values()), sums.device, sums.dtype)
        both = torch.stack([sums, clips])
        if started():
            distributed.all_reduce(both)
        sums, clips = both
        for name, total, count in zip(self._sums, sums.unbind(), clips.unbind(), strict=True):
            # where this process has such clips, nobody needs to ask the device whether there are any
            if self._clips[name] or float(count):
                means[name] = total / count
        return means
