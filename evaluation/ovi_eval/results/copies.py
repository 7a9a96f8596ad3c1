"""Clips that are copies of one another by content: reported, and counted once in intervals and tests.

A file copied under another name says nothing new of a model. Its value still counts in the mean, as in every published
implementation; intervals and tests rest on what differs.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from ovi_eval.results.files import ClipScores, RunResults


def first_places(contents: Sequence[str | None]) -> dict[int, int]:
    """Of each clip whose content an earlier one has, by its place, the first one's place; None is like no other."""
    first: dict[str, int] = {}
    copies = {}
    for place, content in enumerate(contents):
        if content is not None and first.setdefault(content, place) != place:
            copies[place] = first[content]
    return copies


def note(copies: Mapping[int, int], ids: Sequence[str], which: str = "") -> tuple[str, ...]:
    """One sentence where there are copies; none where there are not. `which` stands before "clips"."""
    if not copies:
        return ()
    place = min(copies)
    clips = f"{which} clips".strip()
    return (
        f"{len(copies)} of {len(ids)} {clips} are copies by content of others, as {ids[place]} of "
        f"{ids[copies[place]]}: intervals and tests rest on the {len(ids) - len(copies)} that differ",
    )


def units(
    contents: Sequence[Hashable], captions: Sequence[str | None], values: Sequence[float]
) -> list[Hashable]:
    """What each value is a measurement of: equal for the copies of one clip, which are one measurement.

    Where copies have different values, the metric looked at more than the clip (its caption, the reference clip of its
    id); then only those with caption and value in common are one.
    """
    seen: dict[Hashable, float] = {}
    if all(seen.setdefault(c, v) == v for c, v in zip(contents, values, strict=True)):
        return list(contents)
    return list(zip(contents, captions, values, strict=True))


def units_by_id(clips: Sequence[ClipScores], key: str) -> dict[str, Hashable] | None:
    """By clip id what its value of a metric is a measurement of; None where no clip is a copy."""
    if all(clip.same_as is None for clip in clips):
        return None
    having = [(clip, value) for clip in clips if (value := clip.values.get(key)) is not None]
    found = units(
        [clip.same_as or clip.id for clip, _ in having],
        [clip.caption for clip, _ in having],
        [value for _, value in having],
    )
    return dict(zip([clip.id for clip, _ in having], found, strict=True))


def units_over_runs(runs: Sequence[RunResults], key: str) -> dict[str, Hashable] | None:
    """As `units_by_id`, of clips that come back in every run: one only where they are one in all runs."""
    found = [units_by_id(run.clips, key) for run in runs]
    if all(each is None for each in found):
        return None
    ids = dict.fromkeys(clip.id for run in runs for clip in run.clips)
    return {clip: tuple((each or {}).get(clip, clip) for each in found) for clip in ids}
