"""One run's scores on the terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from ovi_eval.common.number_format import format_number
from ovi_eval.ranking.columns import ARROWS
from ovi_eval.report import wording
from ovi_eval.report.terminal import narrow_console, warn
from ovi_eval.report.wording import line
from ovi_eval.results.files import RunResults
from ovi_eval.results.metric_titles import TITLES
from ovi_eval.scoring.results_of import Scored

REASONS = 3
"""Kinds of reasons shown for each metric, the commonest first."""


def show_run(results: RunResults, scored: Scored, left_out: Sequence[str] = ()) -> None:
    """Prints a run's values with their intervals, what warns, and which clips are missing and why.

    `left_out` names metrics that are not available here.
    """
    table = Table(
        title=Text(line(results.label())), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for head in ("metric", "", "value", "95 % interval", "clips", "coverage", "unit"):
        table.add_column(head, justify="right" if head in ("value", "clips", "coverage") else "left")
    for key, m in results.metrics.items():
        value = "–" if m.value is None else format_number(m.value)
        between = "" if m.ci95 is None else f"{format_number(m.ci95[0])} to {format_number(m.ci95[1])}"
        counted = f"{m.n} ({m.distinct} differ)" if m.distinct not in (None, m.n) else str(m.n)
        cells = (ARROWS[m.direction], value, between, counted, wording.percent(m.coverage))
        title = line(TITLES.get(key, m.title))
        name = Text.assemble(line(key), (f"\n{title}" if title else "", "dim"))
        table.add_row(name, *cells, Text(line(m.unit)))
    console = narrow_console()
    console.print(table)
    for key, m in results.metrics.items():
        if m.value is not None and m.dimension is not None:
            bias = "" if m.bias is None else f", of it a small-sample bias of about {format_number(m.bias)}"
            console.print(Text(f"{line(key)}: {m.n} clips in {m.dimension} dimensions{bias}", style="dim"))
    warnings = dict.fromkeys(
        f"{key}: {text}" for key, metric in results.metrics.items() for text in metric.warnings
    )
    warn(console, [*results.notes, *warnings, *missing_clips(results, scored.reasons)])
    if left_out:
        text = f"left out: {', '.join(left_out)}; ovi-eval metrics says what each needs"
        console.print(Text(text, style="dim"))


def missing_clips(results: RunResults, reasons: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for each group of metrics that lack the same clips for the same reasons."""
    found: dict[str, list[str]] = {}
    for metric in dict.fromkeys(name for why in reasons for name in why):
        places = [place for place, why in enumerate(reasons) if metric in why]
        # Reasons that differ in their numbers only are one kind.
        kind_of = {place: re.sub(r"[0-9.]+", "#", reasons[place][metric]) for place in places}
        kinds = Counter(kind_of.values())
        parts = []
        for kind, count in kinds.most_common(REASONS):
            first = next(place for place in places if kind_of[place] == kind)
            parts.append(f"{count} as {results.clips[first].id}: {reasons[first][metric]}")
        if len(kinds) > REASONS:
            parts.append("others for other reasons")
        lacking = f"{len(places)} of {results.n_clips} clips are missing"
        why = f", as {parts[0].partition(' as ')[2]}" if len(parts) == 1 else f"; {'; '.join(parts)}"
        found.setdefault(lacking + why, []).append(metric)
    return [f"{', '.join(metrics)}: {text}" for text, metrics in found.items()]
