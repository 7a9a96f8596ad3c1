"""A clip on the page: its picture, its timeline and its own scores. What it plays lies on the shelf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ovi_eval.ranking.claims import format_number
from ovi_eval.ranking.table import Column, Row
from ovi_eval.report import words
from ovi_eval.report.html.pictures import TIMELINE_HIGH, WIDTH
from ovi_eval.report.html.shelf import Shown
from ovi_eval.report.palette import breakable, colour, dot
from ovi_eval.report.text import escape
from ovi_eval.results.clip_files import ClipFinder
from ovi_eval.results.files import ClipScores, RunResults

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

# Of one transparent pixel: stands where a picture comes from the shelf.
_BLANK = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


@dataclass(frozen=True)
class Strand:
    """What clips come from: a run of an arm, or of a reference, and its files by clip id."""

    title: str
    run: RunResults
    tint: str | None
    files: Mapping[str, Path]


def strands_of(row: Row, benchmark: str, tint: str | None, clips: ClipFinder) -> list[Strand]:
    """The row's runs of a benchmark, each with those of its clips that were found."""
    return [
        Strand(row.name + ("" if run.seed is None else f" · seed {run.seed}"), run, tint, clips.of(run).files)
        for run in _together([run for run in row.runs if run.benchmark == benchmark], clips)
    ]


def _together(runs: Sequence[RunResults], clips: ClipFinder) -> list[RunResults]:
    """Runs of one seed that were scored by one metric after another become one run with all values."""
    found: list[RunResults] = []
    for run in runs:
        for place, other in enumerate(found):
            if other.seed == run.seed and not set(other.metrics) & set(run.metrics):
                found[place] = _joined(other, run, clips)
                break
        else:
            found.append(run)
    return found


def _joined(a: RunResults, b: RunResults, finder: ClipFinder) -> RunResults:
    clips = {clip.id: clip for clip in a.clips}
    for clip in b.clips:
        if (same := clips.get(clip.id)) is not None:
            clip = ClipScores(
                clip.id,
                {**same.values, **clip.values},
                same.caption or clip.caption,
                same.failed or clip.failed,
                {**same.reasons, **clip.reasons},
                same.same_as or clip.same_as,
            )
        clips[clip.id] = clip
    lead = a if finder.of(a).files else b
    return replace(lead, metrics={**a.metrics, **b.metrics}, clips=tuple(clips.values()))


def tint_of(board: Leaderboard, row: Row) -> str | None:
    """The colour of an arm, None for a reference."""
    return next((colour(i) for i, arm in enumerate(board.arms) if arm is row), None)


def heading(title: str, tint: str | None) -> str:
    """The name over a clip."""
    return f"<h4>{dot(tint)}{breakable(title)}</h4>"


def player(shown: Shown, name: str) -> str:
    """Picture, play button and timeline of a clip; `name` is what assistive software calls it."""
    name = escape(name)
    note = f'<p class="note">{escape(shown.note)}</p>' if shown.note else ""
    return (
        f'<div class="player" data-clip="{shown.number}" data-seconds="{shown.seconds:.4f}">'
        f'<div class="screen" style="aspect-ratio:{shown.width}/{shown.height}">'
        f'<video playsinline preload="none" aria-label="{name}"></video>'
        f'<button type="button" class="play" aria-label="Play {name}"></button></div>'
        '<div class="timeline" role="slider" tabindex="0" aria-valuemin="0" aria-valuenow="0" '
        f'aria-valuemax="{shown.seconds:.2f}" aria-valuetext="0.00 s" aria-label="Position in {name}">'
        f'<img src="{_BLANK}" width="{WIDTH}" height="{TIMELINE_HIGH}" '
        f'alt="Frames above the spectrogram of {name}, {shown.seconds:.2f} s">'
        f'<div class="playhead"></div></div>{note}</div>'
    )


def scores(clip: ClipScores | None, metrics: Sequence[Column], chosen: Column | None = None) -> str:
    """A clip's own values, `chosen` made bold, and why it lacks those that it lacks."""
    if clip is None:
        return ""
    if clip.failed:
        return f'<p class="note reason">not scored: {escape(clip.failed)}</p>'
    items, seen = [], set()
    for column in metrics:
        value = clip.values.get(column.key)
        if value is None or column.key in seen:
            continue
        seen.add(column.key)
        name = f"<span>{breakable(words.bare(column))}</span>"
        mark = ' class="chosen"' if chosen is not None and column.key == chosen.key else ""
        items.append(f"<li{mark}>{name} {escape(clip_number(value, column))}</li>")
    lacking = "".join(
        f'<li class="reason"><span>{breakable(metric)}</span> {escape(why)}</li>'
        for metric, why in clip.reasons.items()
    )
    listed = f'<ul class="scores">{"".join(items)}</ul>' if items else ""
    return listed + (f'<ul class="reasons">{lacking}</ul>' if lacking else "")


def clip_number(value: float, column: Column) -> str:
    """A clip's value: whole milliseconds, else two decimals where they mean something."""
    return format_number(value, 0 if column.unit == "ms" or abs(value) >= 100 else 2)
