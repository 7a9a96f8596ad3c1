"""Losses binned by timestep, and by role: an average over either hides where a model is good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, distributed

from ovi_lab.flow import DrawnRoles, FlowLoss
from ovi_lab.models.rope import from_host
from ovi_lab.strategies.process_groups import started

WAITING = 64
"""So many batches of losses are binned together: in every step the calls alone would cost more than what they do."""


@dataclass(frozen=True)
class _Losses:
    """The losses of a batch: clip n is of names[place_B[n]], or left out where its place is len(names).

    The last name is of all clips that are not left out, unless it is the only one.
    """

    names: tuple[str, ...]
    place_B: Sequence[int]
    loss_B: Tensor
    sigma_B: Tensor


class LossByTimestep:
    """Sums losses per bin of sigma between two reports; on the device until they are read.

    Args:
        bins: equal bins of sigma over [0, 1].
    """

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self._sums: dict[str, Tensor] = {}
        """[2, bins], losses and clips."""
        self._of_step: list[_Losses] = []
        self._waiting: list[_Losses] = []

    def expect(self, names: Iterable[str], device: torch.device) -> None:
        """Make room for these, also after each report: all processes must report the same ones, though one may add
        nothing to some of them."""
        for name in names:
            self._sums.setdefault(name, torch.zeros(2, self.bins, device=device))

    def add(self, modality: str, loss_B: Tensor, sigma_B: Tensor) -> None:
        """Add the losses of a batch to those of the step under way."""
        self.add_groups((modality,), [0] * len(loss_B), loss_B, sigma_B)

    def add_groups(
        self, names: tuple[str, ...], place_B: Sequence[int], loss_B: Tensor, sigma_B: Tensor
    ) -> None:
        """As `add`, with a name for each clip and one for all together.

        Args:
            names: such as `joint/video`, `span/video` and, for all of both, `video`; or one alone.
            place_B: of each clip's name among these, len(names) for a clip that is left out.
            loss_B: of the clips.
            sigma_B: of the clips.
        """
        self._of_step.append(_Losses(names, place_B, loss_B.detach(), sigma_B))

    def end_step(self) -> None:
        """Count the step under way, which until then is no part of the state."""
        self._waiting += self._of_step
        self._of_step = []
        if len(self._waiting) >= WAITING:
            self._bin()

    @torch.no_grad()
    def _bin(self) -> None:
        """Bin what waits, clip after clip, so that sums do not depend on how often this is done."""
        for names in dict.fromkeys(losses.names for losses in self._waiting):
            own = [losses for losses in self._waiting if losses.names == names]
            loss_N = torch.cat([losses.loss_B for losses in own]).float()
            device = loss_N.device
            self.expect(names, device)
            bin_N = (torch.cat([losses.sigma_B for losses in own]) * self.bins).long()
            place_N = from_host([place for losses in own for place in losses.place_B], device)
            at_N = bin_N.clamp_(0, self.bins - 1) + self.bins * place_N
            # a loss that is not finite is left to the guard: here it would spoil its bin
            finite_N = loss_N.isfinite()
            values_2N = torch.stack([loss_N.where(finite_N, 0.0), finite_N.float()])
            left_out = torch.zeros(2, self.bins, device=device)
            sums = torch.cat([*(self._sums[name] for name in names), left_out], dim=1)
            sums.index_add_(1, at_N, values_2N)
            if len(names) > 1:
                last = len(names) - 1
                sums.index_add_(1, torch.where(place_N < last, bin_N + self.bins * last, at_N), values_2N)
            self._sums |= zip(names, sums.split(self.bins, dim=1)[:-1], strict=True)
        self._waiting = []

    def state(self) -> dict[str, list[list[float]]]:
        """The sums of whole steps over all processes, in plain values; collective."""
        return self._over_all()

    def _over_all(self) -> dict[str, list[list[float]]]:
        """The sums over all processes by name, in one reduction and one copy from the device."""
        self._bin()
        if not self._sums:
            return {}
        names = sorted(self._sums)  # in the order of insertion processes may differ
        stacked = torch.stack([self._sums[name] for name in names])
        if started():
            distributed.all_reduce(stacked)
        return dict(zip(names, stacked.tolist(), strict=True))

    def restore(self, state: Mapping[str, list[list[float]]], device: torch.device) -> None:
        """Restore a `state`; one process then holds the sums of all."""
        self._of_step, self._waiting = [], []
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
    names: tuple[str, ...],
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
    own, place_of = _places(names, modality)
    places = [place_of.get(role, 0) for role in drawn.names]
    if loss.counted is not None:
        places = [at if has else len(own) for at, has in zip(places, loss.counted.tolist(), strict=True)]
    bins.add_groups(own, places, loss.per_clip, sigma_B)


@cache
def _places(roles: tuple[str, ...], modality: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of a modality's losses by role and of all, of one role of all alone; and the place of each role."""
    of_all, *by_role = names_by_role(roles, [modality])
    return (*by_role, of_all), {name.partition("/")[0]: place for place, name in enumerate(by_role)}
