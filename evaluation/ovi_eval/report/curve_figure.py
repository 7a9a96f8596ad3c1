"""figure.png of a sweep: a panel a metric, a curve with its seeds and interval against the number."""

from __future__ import annotations

import math
import textwrap
from itertools import product
from typing import TYPE_CHECKING, Any

from ovi_eval.report import wording
from ovi_eval.report.figure import drawn_png, panel_title
from ovi_eval.report.palette import COLOURS, DASHES, colour
from ovi_eval.report.wording import line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovi_eval.ranking.columns import Column
    from ovi_eval.ranking.leaderboard import Leaderboard
    from ovi_eval.ranking.sweep import Sweep

_ACROSS = 4
_LABELS_APART = 0.1
"""Least distance of two labelled values, of the axis, where the labels have up to four characters."""
_LABEL_DIGITS = 5
"""Characters of a number from which on its label is rounded to three digits."""
_KINDS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"))
"""Marker and dashes of curves that share a colour."""
_LOG_FROM = 8
"""Numbers above 0 of which the largest is so many times the smallest are drawn on a logarithmic axis."""


def curves_png(board: Leaderboard, sweep: Sweep) -> bytes:
    """All columns as small multiples in a PNG: the mean of each curve, its interval as a band, each seed as a thin
    line.

    Of two settings the first is the horizontal axis, and each number of the second has panels of its own.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = sweep.values(1) if len(sweep.axes.x) > 1 else [None]
    panels = list(product(board.columns, seconds))
    across = len(seconds) if 1 < len(seconds) <= _ACROSS else min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    width = max(7.0, 1.0 + 3.0 * across)
    figure = Figure(figsize=(width, 2.7 * down + 0.9), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False)
    handles: dict[str, Any] = {}
    looks = curve_looks(sweep)
    for index, axis in enumerate(axes.flat):
        if index >= len(panels):
            axis.set_visible(False)
            continue
        column, second = panels[index]
        more = [] if second is None else [f"{line(sweep.axes.x[1], 60)} = {second:g}"]
        axis.set_title(panel_title(column, *more), fontsize=8.5, parse_math=False)
        _draw(axis, board, sweep, column, second, handles, looks)
    for place in range(0, len(panels), len(seconds)):  # panels of one metric have one vertical axis
        own = axes.flat[place : place + len(seconds)]
        low, high = (pick(axis.get_ylim()[end] for axis in own) for pick, end in ((min, 0), (max, 1)))
        for axis in own:
            axis.set_ylim(low, high)
    counted = wording.seed_counts(board.arms)
    note = [
        f"line: mean; thin: each of {counted}; band: 95 % interval"
        if counted
        else "line: value; band: 95 % interval",
        *(["dotted: the paper's value"] if sweep.axes.paper.keys() & {*sweep.axes.x} else []),
        *(["dashed: references"] if any(row.cells for row in board.references) else []),
    ]
    lines = textwrap.wrap("; ".join(note), int(14 * width))
    return drawn_png(figure, "\n".join([line(board.title, 150), *lines]), handles)


def curve_looks(sweep: Sweep) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and dashes of each curve by its name.

    Where curves are told apart by several settings, the first chooses the colour and the others the marker and the
    dashes; where by one or none, marker and dashes change with every round of the colours.
    """
    told = {one.series: tuple(one.told.values()) for one in sweep.arms}
    first, others = [
        list(dict.fromkeys(own[part] for own in told.values())) for part in (slice(1), slice(1, None))
    ]
    looks = {}
    for number, (series, own) in enumerate(told.items()):
        place, kind = number, number // len(COLOURS)
        if len(others) > 1:
            place, kind = first.index(own[:1]), others.index(own[1:])
        looks[series] = (colour(place), *_KINDS[kind % len(_KINDS)])
    return looks


def _draw(
    axis: Any,
    board: Leaderboard,
    sweep: Sweep,
    column: Column,
    second: float | None,
    handles: dict[str, Any],
    looks: Mapping[str, tuple[str, str, str]],
) -> None:
    rows = {row.name: row for row in board.arms}
    for series in sweep.series:
        own_colour, marker, dashes = looks[series]
        arms = [one for one in sweep.along(series, second) if column.id in rows[one.arm].cells]
        if not arms:
            continue
        x, cells = [one.at[0] for one in arms], [rows[one.arm].cells[column.id] for one in arms]
        (drawn,) = axis.plot(
            x, [cell.value for cell in cells], marker=marker, ls=dashes, ms=3.5, lw=1.6, color=own_colour
        )
        if series:
            handles.setdefault(series, drawn)
        banded = [(at, cell.interval) for at, cell in zip(x, cells, strict=True) if cell.interval is not None]
        if banded:
            lows, highs = ([getattr(interval, end) for _, interval in banded] for end in ("low", "high"))
            axis.fill_between([at for at, _ in banded], lows, highs, color=own_colour, alpha=0.18, lw=0)
        seeds = dict.fromkeys(seed for cell in cells for seed in cell.by_seed)
        for seed in seeds if len(seeds) > 1 else ():
            own = [
                (at, cell.by_seed[seed]) for at, cell in zip(x, cells, strict=True) if seed in cell.by_seed
            ]
            axis.plot([at for at, _ in own], [value for _, value in own], color=own_colour, lw=0.5, alpha=0.6)
    for number, row in enumerate(board.references):
        if column.id in row.cells:
            value = row.cells[column.id].value
            drawn = axis.axhline(value, color="0.45", lw=1, ls=(0, DASHES[number % len(DASHES)]))
            handles.setdefault(row.name, drawn)
    if (paper := sweep.axes.paper.get(sweep.axes.x[0])) is not None:
        handles.setdefault(f"paper: {paper:g}", axis.axvline(paper, color="0.2", lw=1.2, ls=":"))
    values = sweep.values()
    if values[0] > 0 and values[-1] >= _LOG_FROM * values[0]:
        axis.set_xscale("log")
        axis.set_xticks(values, labelled(values, paper))
        axis.minorticks_off()
    axis.set_xlabel(line(sweep.axes.x[0], 60), fontsize=8, parse_math=False)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(lw=0.4, color="0.88")
    axis.set_axisbelow(True)


def labelled(values: Sequence[float], first: float | None) -> list[str]:
    """The labels of ascending values on a logarithmic axis, "" for one that would overlap; `first` comes before all
    others."""
    texts = {value: f"{value:g}" for value in values}
    texts = {value: text if len(text) <= _LABEL_DIGITS else f"{value:.3g}" for value, text in texts.items()}
    axis = math.log(values[-1] / values[0])

    def fit(a: float, b: float) -> bool:
        least = _LABELS_APART * max(1.0, (len(texts[a]) + len(texts[b])) / 8)
        return abs(math.log(a / b)) >= least * axis

    shown: list[float] = []
    for value in sorted(values, key=lambda value: value != first):
        if all(fit(value, other) for other in shown):
            shown.append(value)
    return [texts[value] if value in shown else "" for value in values]
