"""The figure: a panel a world and fault, a line a metric: how surely it ranks the faulty set below the clean one."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from ovi_eval.report.palette import COLOURS
from ovi_lab.sync_metrics.analysis import SURE, Sensitivity
from ovi_lab.sync_metrics.tables import of_world, words

ACROSS = 6
STYLES = {
    "sync_c": (0, "-"), "sync_d": (0, "--"), "sync_d0": (1, "-"), "sync_shift": (1, "--"), "onset_f1": (2, "-"),
    "onset_iou": (2, "--"), "onset_offset": (2, ":"), "av_align_javis": (3, "-"), "av_align_mova": (3, "--"),
    "agreement": (4, "-"), "lip_error": (4, "--"), "syncnet_c": (6, "-"), "syncnet_d": (6, "--"),
    "syncnet_offset": (6, ":"), "desync": (7, "-"),
}  # fmt: skip
"""Colour and dash of each metric: those of one kind share a colour."""


def png(answers: Sequence[Sensitivity]) -> bytes:
    """The figure, drawn without a display; the same numbers give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    worlds = list(dict.fromkeys(answer.measured.world for answer in answers))
    rows = [math.ceil(len(of_world(answers, world)[1]) / ACROSS) for world in worlds]
    figure = Figure(figsize=(2.5 * ACROSS, 2.45 * sum(rows) + 0.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(sum(rows), ACROSS, squeeze=False, sharey=True)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        axis.set_visible(False)
    for number, world in enumerate(worlds):
        panels = axes[sum(rows[:number]) :].flat
        for fault in of_world(answers, world)[1]:
            axis = next(panels)
            axis.set_visible(True)
            own = [a for a in answers if a.measured.world == world and a.measured.fault.name == fault.name]
            for answer in own:
                tint, dash = STYLES[answer.measured.judge.name]
                places = range(1, len(fault.sizes) + 1)
                (line,) = axis.plot(
                    places, answer.independent, dash, color=COLOURS[tint], lw=1.4, marker=".", ms=4
                )
                handles.setdefault(answer.measured.judge.name, line)
            axis.axhline(SURE, color="0.5", lw=0.7, ls="--")
            axis.axhline(0.5, color="0.5", lw=0.7, ls=":")
            axis.set_title(f"{world}: {words(fault.name)}", fontsize=8.5)
            axis.set_xticks(
                range(1, len(fault.sizes) + 1), [f"{size:g}" for size in fault.sizes], fontsize=7.5
            )
            axis.set_xlabel(fault.unit, fontsize=8)
            axis.set_ylim(-0.03, 1.03)
            axis.tick_params(axis="y", labelsize=7.5)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
    figure.supylabel("share of pairs of sets that rank the faulty one below", fontsize=8.5)
    names = [name for name in STYLES if name in handles]
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=len(names),
        fontsize=8,
        frameon=False,
    )
    held = io.BytesIO()
    figure.savefig(held, format="png", metadata={"Software": None})
    return held.getvalue()
