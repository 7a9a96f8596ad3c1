"""figure.png: a panel a metric, an arm a line with its seeds and interval, references as dashed lines."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ovi_eval.report import wording
from ovi_eval.report.palette import DASHES, colour
from ovi_eval.report.wording import line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ovi_eval.ranking.columns import Column
    from ovi_eval.ranking.leaderboard import Leaderboard

_ACROSS = 4
# Characters of a title that fit above a panel, and of a name that fit beside it.
_TITLE, _NAME = 27, 30


def figure_png(board: Leaderboard) -> bytes:
    """All columns as small multiples in a PNG, drawn without a display; the same numbers give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(board.columns))
    down = math.ceil(len(board.columns) / across)
    names = [line(row.name, _NAME) for row in board.arms]
    height = 0.62 + 0.3 * len(names)
    figure = Figure(figsize=(1.6 + 2.7 * across, (height + 0.45) * down + 0.7), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    handles: dict[str, Any] = {}
    for index, axis in enumerate(axes.flat):
        if index >= len(board.columns):
            axis.set_visible(False)
            continue
        column = board.columns[index]
        for number, row in enumerate(board.references):
            if column.id in row.cells:
                drawn = axis.axvline(
                    row.cells[column.id].value, color="0.45", lw=1, ls=(0, DASHES[number % len(DASHES)])
                )
                handles.setdefault(row.name, drawn)
        for place, row in enumerate(board.arms):
            cell = row.cells.get(column.id)
            if cell is None:
                continue
            if cell.interval is not None:
                axis.plot([cell.interval.low, cell.interval.high], [place, place], color=colour(place), lw=2)
            for value in cell.by_seed.values() if len(cell.by_seed) > 1 else ():
                axis.plot(value, place, "o", ms=4, mfc="none", mec=colour(place), mew=0.9)
            axis.plot(cell.value, place, "o", ms=6, color=colour(place))
        axis.set_title(panel_title(column), fontsize=8.5, parse_math=False)
        axis.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.tick_params(axis="x", labelsize=7.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", lw=0.4, color="0.88")
        axis.set_axisbelow(True)
    counted = wording.seed_counts(board.arms)
    note = [
        f"filled: mean; open: each of {counted}" if counted else "dot: value",
        "bars: 95 % interval",
        *(["dashed: references"] if handles else []),
    ]
    return drawn_png(figure, f"{line(board.title, 150)}\n{'; '.join(note)}", handles)


def panel_title(column: Column, *more: str) -> str:
    """The metric in words and its raw name with the way that is better, in lines that fit above a panel."""
    name = f"{line(column.id, 150)}\N{NO-BREAK SPACE}{column.arrow}{line(wording.unit(column), 40)}"
    texts = (line(column.title, 150), name, *more)
    return "\n".join(part for text in texts for part in textwrap.wrap(text, _TITLE, break_on_hyphens=False))


def drawn_png(figure: Figure, title: str, handles: Mapping[str, Any]) -> bytes:
    """The figure as PNG, below it a legend of these handles by name; the same drawing gives the same bytes."""
    figure.suptitle(title, fontsize=9, parse_math=False)
    if handles:
        shown = [line(name, _NAME) for name in handles]
        legend = figure.legend(
            list(handles.values()), shown, loc="outside lower center", ncols=4, fontsize=8, frameon=False
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    buffer = io.BytesIO()
    # Without a date or version in it, equal numbers make equal files.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
