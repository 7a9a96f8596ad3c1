"""Losses binned by timestep, and by role: an average over either hides where a model is good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from ovi_lab.flow import DrawnRoles, FlowLoss
from ovi_lab.models.rope import from_host
from ovi_lab.strategies.process_groups import started


class LossByTimestep:
    """Sums losses per bin of sigma between two reports; on the device until they are read.

    Args:
        bins: equal bins of sigma over [0, 1].
    """

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self._sums: dict[str, Tensor] = {}
        self._of_step: dict[str, Tensor] = {}

    def expect(self, names: Iterable[str], device: torch.device) -> None:
        """Make room for these, also after each report: all processes must report the same ones, though one may add
        nothing to some of them."""
        for name in names:
            self._sums.setdefault(name, torch.zeros(2, self.bins, device=device))

    @torch.no_grad()
    def add(self, modality: str, loss_B: Tensor, sigma_B: Tensor) -> None:
        """Add the losses of a batch to those of the step under way."""
        if modality not in self._of_step:
            self._of_step[modality] = torch.zeros(2, self.bins, device=loss_B.device)
        where = (sigma_B * self.bins).long().clamp_(0, self.bins - 1)
        sums = self._of_step[modality]
        loss_B = loss_B.detach().float()
        # a loss that is not finite is left to the guard: here it would spoil its bin
        finite_B = loss_B.isfinite()
        sums[0].index_add_(0, where, loss_B.where(finite_B, 0.0))
        sums[1].index_add_(0, where, finite_B.float())

    @torch.no_grad()
    def add_groups(
        self, names: Sequence[str], members: NDArray[np.bool_], loss_B: Tensor, sigma_B: Tensor
    ) -> None:
        """As `add` for each name with the clips that are its members, bool [names, B]."""
        loss_B = loss_B.detach().float()
        finite_B = loss_B.isfinite()
        where_B = (sigma_B * self.bins).long().clamp_(0, self.bins - 1)
        in_bin_BT = (where_B[:, None] == torch.arange(self.bins, device=where_B.device)).float()
        values_2B = torch.stack([loss_B.where(finite_B, 0.0), finite_B.float()])
        members_K1B = from_host(members, loss_B.device).float()[:, None]
        for name, sums in zip(names, (members_K1B * values_2B) @ in_bin_BT, strict=True):
            self._of_step[name] = self._of_step[name] + sums if name in self._of_step else sums

    def end_step(self) -> None:
        """Count the step under way, which until then is no part of the state."""
        for modality, sums in self._of_step.items():
            self._sums[modality] = self._sums[modality] + sums if modality in self._sums else sums
        self._of_step = {}

    def state(self) -> dict[str, list[list[float]]]:
        """The sums of whole steps over all processes, in plain values; collective."""
        return self._over_all()

    def _over_all(self) -> dict[str, list[list[float]]]:
        """The sums over all processes by name, in one reduction and one copy from the device."""
        if not self._sums:
            return {}
        names = sorted(self._sums)  # in the order of insertion processes may differ
        stacked = torch.stack([self._sums[name] for name in names])
        if started():
            distributed.all_reduce(stacked)
        return dict(zip(names, stacked.tolist(), strict=True))

    def restore(self, state: Mapping[str, list[list[float]]], device: torch.device) -> None:
        """Restore a `state`; one process then holds the sums of all."""
        first = not started() or distributed.get_rank() == 0
        for modality, values in state.items():
            sums = torch.tensor(values, device=device)
            self._sums[modality] = sums if first else torch.zeros_like(sums)

    def collect(self) -> dict[str, float]:
        """Mean loss by `<modality>_t<from>-<to>` (in thousandths of sigma) of bins with clips; resets the sums.

        Of a modality in a role also its mean over all bins, by `<role>/loss_<modality>`. Over all processes;
        collective.
        """
        self.end_step()
        report = {}
        found = self._over_all()
        for modality in self._sums:
            totals, counts = found[modality]
            role, _, own = modality.rpartition("/")
            if role and (clips := sum(counts)):
                report[f"{role}/loss_{own}"] = sum(totals) / clips
            for index, (total, count) in enumerate(zip(totals, counts, strict=True)):
                if count:
                    low, high = (round(1000 * edge / self.bins) for edge in (index, index + 1))
                    report[f"{modality}_t{low:03d}-{high:03d}"] = total / count
        self._sums = {name: torch.zeros_like(sums) for name, sums in self._sums.items()}
        return report


def names_by_role(roles: Iterable[str], modalities: Iterable[str]) -> list[str]:
    """All under which `add_by_role` may add losses of a run that draws these roles."""
    drawn, own = list(roles), list(modalities)
    # a clip for which a role would give nothing, or all, is a joint one
    several = dict.fromkeys([*drawn, "joint"]) if len(drawn) > 1 else ()
    return [*own, *(f"{role}/{modality}" for role in several for modality in own)]


def add_by_role(
    bins: LossByTimestep,
    modality: str,
    loss: FlowLoss,
    sigma_B: Tensor,
    drawn: DrawnRoles,
    names: Iterable[str],
) -> None:
    """Add a batch's losses of clips that have one, together and, where there are several roles, role by role.

    Args:
        bins: to add to.
        modality: of the losses.
        loss: by clip.
        sigma_B: of the clips.
        drawn: their roles.
        names: roles that the run draws.
    """
    if len(tuple(names)) <= 1 and loss.counted is None:
        bins.add(modality, loss.per_clip, sigma_B)
        return
    own = (
        [modality, *(f"{role}/{modality}" for role in drawn.members)] if len(tuple(names)) > 1 else [modality]
    )
    members_KB = drawn.groups[: len(own)]
    if loss.counted is not None:
        members_KB = members_KB & loss.counted
        there = members_KB.any(axis=1)
        own, members_KB = [name for name, some in zip(own, there, strict=True) if some], members_KB[there]
    if own:
        bins.add_groups(own, members_KB, loss.per_clip, sigma_B)
