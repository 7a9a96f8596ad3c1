"""Names of a model's tensors in files of any trainer.

A trainer puts the names of its own attributes before the model's (`model.`, `module.`, `_orig_mod.`,
`model.diffusion_model.`, …).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from ovi_eval.common.shown import shown
from ovi_lab.errors import UserError
from ovi_lab.weights.fit import check_plain
from ovi_lab.weights.tensor_files import Stored

_TOWER = re.compile(r"(?P<prefix>(?:[^.]+\.)*?)(?:video|audio)_model\.")
_BARE_TOWER = re.compile(
    r"(?P<prefix>(?:(?:model|module|diffusion_model|state_dict|transformer|net)\.)*)patch_embedding\.weight$"
)
"""Names of a tower published by itself (Wan2.2), without a tower's prefix."""
# torch.compile and activation checkpointing put these into the names of what they wrap.
_WRAPPERS = re.compile(r"_orig_mod\.|_checkpoint_wrapped_module\.")


class Renamed(Stored):
    """Some of the tensors on disk, under other names; `names` gives the stored name of each new one."""

    def __init__(self, stored: Stored, names: Mapping[str, str]) -> None:
        self.path, self.names, self._stored = stored.path, names, stored
        held = stored.tensors
        self.tensors = {new: held[old] for new, old in names.items()}

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        wanted = {self.names[new]: new for new in names}
        return ((wanted[old], tensor) for old, tensor in self._stored.stream(wanted))

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self._stored.rows(self.names[name], start, stop)


def model_of(stored: Stored) -> tuple[Stored, list[str]]:
    """The one model among the tensors of a file, under released names, and the names of all that is not the model's.

    A tower published by itself keeps its own names, without what a trainer put before them.

    Raises:
        UserError: there is none, or several; or its weights are quantised.
    """
    source = shown(stored.path, None)
    plain = {name: _WRAPPERS.sub("", name) for name in stored.tensors}
    towers = {old: match["prefix"] for old, name in plain.items() if (match := _TOWER.match(name))}
    bare = {match["prefix"] for name in plain.values() if (match := _BARE_TOWER.match(name))}
    prefixes = set(towers.values()) or bare
    if not prefixes:
        raise UserError(
            f"{source} holds no video_model.* or audio_model.* weights: it is a checkpoint of another model"
        )
    if len(prefixes) > 1 and "model." not in prefixes:
        listed = ", ".join(repr(shown(prefix, 60)) for prefix in sorted(prefixes)[:4])
        raise UserError(
            f"{source} holds several models, under {listed}: save the one to be used as `model.` or alone"
        )
    prefix = "model." if len(prefixes) > 1 else next(iter(prefixes))
    names: dict[str, str] = {}
    surplus = []
    for old, name in plain.items():
        if towers.get(old) != prefix if towers else not name.startswith(prefix):
            surplus.append(old)
            continue
        new = name.removeprefix(prefix)
        if new in names:
            raise UserError(f"{source} holds {shown(new, 80)} twice, as {shown(names[new])} and {shown(old)}")
        names[new] = old
    check_plain({n: stored.tensors[old] for n, old in names.items()}, surplus, source)
    beside = [o for o in surplus if towers and plain[o].startswith(f"{prefix}blocks.")]
    if beside:
        raise UserError(
            f"{source} holds {shown(beside[0], 80)} beside the towers ({len(beside)} such tensors), which is not the "
            "released layout: take the model in that"
        )
    unchanged = not surplus and all(new == old for new, old in names.items())
    return stored if unchanged else Renamed(stored, names), surplus
