"""Clips to set beside a measured arm: real ones as a ceiling, real ones with late or foreign sound as floors."""

from __future__ import annotations

from dataclasses import replace

import torch

from ovi_eval.ball.detectors import landings, seen
from ovi_eval.clips.clipset import ClipSet
from ovi_eval.errors import UserError

SHIFTS_MS = (50, 100, 150)


def make_references(real: ClipSet, seed: int) -> dict[str, ClipSet]:
    """Sets of clips by the name of their row: `real`, `real_shifted_50ms` (100, 150), `real_shuffled` and
    `real_other_captions`, each clip with the next one's caption of the same kind.

    Late sound begins with silence. The other clip has as many landings (by meta["count"], else as seen), so
    that only when they happen differs, and the colour's pitch; `seed` draws which. Raises UserError for a
    single clip.
    """
    rows = {"real": real}
    for ms in SHIFTS_MS:
        rows[f"real_shifted_{ms}ms"] = with_late_sound(real, ms / 1000)
    rows["real_shuffled"] = with_others_sound(real, seed)
    rows["real_other_captions"] = with_others_captions(real)
    return rows


def with_others_captions(clips: ClipSet) -> ClipSet:
    """The clips, each with the caption of the next one that tells as much (by meta["told"], else meta["vague"])."""
    kinds: dict[str, list[int]] = {}
    for place, row in enumerate(clips.meta):
        kinds.setdefault(str(row.get("told", row.get("vague", ""))), []).append(place)
    captions = list(clips.captions)
    for places in kinds.values():
        for place, following in zip(places, [*places[1:], places[0]], strict=True):
            captions[place] = clips.captions[following]
    return replace(clips, captions=captions)


def with_late_sound(clips: ClipSet, seconds: float) -> ClipSet:
    """The clips with sound that comes late: silence first, the end cut off."""
    late = round(seconds * clips.sample_rate)
    if not 0 <= late < clips.waves_NS.shape[1]:
        length = clips.waves_NS.shape[1] / clips.sample_rate
        raise UserError(f"sound can be late by 0 s to the clips' {length:.3f} s, got {seconds} s")
    waves_NS = torch.nn.functional.pad(clips.waves_NS, (late, 0))[:, : clips.waves_NS.shape[1]]
    return clips.with_waves(waves_NS)


def with_others_sound(clips: ClipSet, seed: int) -> ClipSet:
    """The clips, each with the sound of another that has as many landings.

    A number of landings that only one clip has goes together with the next one. Raises UserError for a
    single clip.
    """
    if len(clips) < 2:
        raise UserError(f"sounds can be exchanged between two clips or more, got {len(clips)}")
    generator = torch.Generator().manual_seed(seed)
    source = torch.arange(len(clips))
    for group in _alike(clips):
        drawn = torch.tensor(group)[torch.randperm(len(group), generator=generator)]
        source[drawn] = drawn.roll(1)
    return clips.with_waves(clips.waves_NS[source])


def _alike(clips: ClipSet) -> list[list[int]]:
    """Groups, of two clips at least, with equally many landings."""
    if all("count" in row for row in clips.meta):
        counts = [int(row["count"]) for row in clips.meta]
    else:
        counts = [len(times) for times in landings(seen(clips), clips.fps)]
    groups: list[list[int]] = []
    for count in sorted(set(counts)):
        members = [i for i, own in enumerate(counts) if own == count]
        if groups and len(groups[-1]) < 2:
            groups[-1] += members
        else:
            groups.append(members)
    if len(groups) > 1 and len(groups[-1]) < 2:
        last = groups.pop()
        groups[-1] += last
    return groups
