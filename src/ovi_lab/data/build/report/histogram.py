"""A score's histogram with its bounds, and the clips nearest to each bound. Lengths are in pixels of the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ovi_eval.report.html.drawings import ticks
from ovi_lab.data.build.decide import applies
from ovi_lab.data.build.recipe import Bound
from ovi_lab.data.build.report.facts import ClipFacts, plain_number

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 200, 6, 6, 26, 28
BINS = 40
TAIL = 0.5
"""Percent of the clips at either end that are drawn in the outermost bar."""
NEAREST = 2
"""Clips shown on either side of a bound."""


@dataclass(frozen=True)
class Bar:
    """A bar's left side and width, and from the ground up (y, height, count) of kept, dropped by this score, other."""

    x: float
    width: float
    parts: Sequence[tuple[str, float, float, int]]
    text: str


@dataclass(frozen=True)
class BoundLine:
    """A bound in the drawing; `anchor` is where its label stands to it."""

    x: float
    text: str
    anchor: str


@dataclass(frozen=True)
class Histogram:
    """Bars, bounds and marks of the axis."""

    bars: Sequence[Bar]
    lines: Sequence[BoundLine]
    ticks: Sequence[tuple[float, str]]
    most: int
    beyond: int
    """Clips whose value lies outside of the drawing, in its outermost bars."""


def histogram(clips: Sequence[ClipFacts], name: str, bound: Bound | None) -> Histogram | None:
    """Of all clips that have the score; None where none has."""
    own = [(clip.scores[name], clip) for clip in clips if name in clip.scores]
    if not own:
        return None
    values = np.array([value for value, _ in own])
    sides = [] if bound is None else [side for side in (bound.min, bound.max) if side is not None]
    low, high = (float(edge) for edge in np.percentile(values, (TAIL, 100 - TAIL)))
    low, high = min([low, *sides]), max([high, *sides])
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    if all(
        value == round(value) for value in (*values.tolist(), *sides)
    ):  # bars of equally many whole numbers
        step = int((high - low) // BINS) + 1
        low, bins = np.floor(low) - 0.5, int((np.ceil(high) - np.floor(low)) // step) + 1
        high = low + bins * step
    else:
        step = 0
        low = 0.0 if 0 <= low <= (high - low) * 0.25 else low - room
        high, bins = high + room, BINS
    edges = np.linspace(low, high, bins + 1)
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    kinds = np.array([0 if clip.kept else 1 if name in clip.dropped_by else 2 for _, clip in own])
    counts = np.zeros((bins, 3), dtype=int)
    np.add.at(counts, (places, kinds), 1)
    most = int(counts.sum(axis=1).max())

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low), 1)

    bars = [
        _bar(x(edges[n]), x(edges[n + 1]), counts[n], most, (edges[n], edges[n + 1]), step == 1)
        for n in range(bins)
    ]
    lines = [
        BoundLine(x(side), f"{what} {plain_number(side)}", "start" if x(side) < WIDTH / 2 else "end")
        for side, what in ((bound.min, "min"), (bound.max, "max"))
        if side is not None
    ] if bound is not None else []  # fmt: skip
    beyond = int(np.sum((values < low) | (values > high)))
    marks = [(x(tick), format_short(tick)) for tick in ticks(low, high)]
    return Histogram([bar for bar in bars if bar.parts], lines, marks, most, beyond)


def _bar(
    left: float, right: float, counts: np.ndarray, most: int, edges: tuple[float, float], whole: bool
) -> Bar:
    ground, room = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
    parts, y = [], float(ground)
    for kind, count in zip(("kept", "own", "other"), counts.tolist(), strict=True):
        if count:
            height = max(1.0, room * count / most)
            y -= height
            parts.append((kind, round(y, 1), round(height, 1), count))
    where = format_short(sum(edges) / 2) if whole else f"{format_short(edges[0])} to {format_short(edges[1])}"
    named = {"kept": "kept", "own": "dropped by it", "other": "dropped otherwise"}
    text = f"{where}: " + ", ".join(f"{count} {named[kind]}" for kind, *_, count in parts)
    return Bar(left, round(max(1.0, right - left - 1), 1), parts, text)


def format_short(value: float) -> str:
    """A number as drawings and examples have it."""
    return plain_number(value, 4)


@dataclass
class Edge:
    """One side of a bound with the clips nearest to it: `inside`, and `outside`, which it keeps out or marks."""

    side: str
    value: float
    inside: list[ClipFacts] = field(default_factory=list)
    outside: list[ClipFacts] = field(default_factory=list)


def nearest(clips: Sequence[ClipFacts], name: str, bound: Bound) -> list[Edge]:
    """The clips just inside and just outside of each side of a bound, of different files where there are."""
    found = []
    own = [clip for clip in clips if name in clip.scores and applies(bound, dict(clip.scores))]
    for side, value in (("min", bound.min), ("max", bound.max)):
        if value is None:
            continue
        sign = 1 if side == "min" else -1
        ordered = sorted((sign * (clip.scores[name] - value), clip.key, clip) for clip in own)
        inside = [clip for distance, _, clip in ordered if distance >= 0]
        outside = [clip for distance, _, clip in reversed(ordered) if distance < 0]
        found.append(Edge(side, value, _of_several_files(inside), _of_several_files(outside)))
    return found


def _of_several_files(clips: Sequence[ClipFacts]) -> list[ClipFacts]:
    """The first clips, no file twice unless there are no others."""
    by_source: dict[str, ClipFacts] = {}
    for clip in clips:
        by_source.setdefault(clip.source, clip)
    first = list(by_source.values())[:NEAREST]
    keys = {clip.key for clip in first}
    return [*first, *(clip for clip in clips if clip.key not in keys)][:NEAREST]
