"""One run's scores on the terminal, and the list of metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ovi_eval.common.needs import Need, missing
from ovi_eval.common.number_format import format_number
from ovi_eval.ranking.columns import ARROWS
from ovi_eval.registry import ALIASES, FAULTS, METRICS
from ovi_eval.report import wording
from ovi_eval.report.terminal import new_console
from ovi_eval.report.wording import line
from ovi_eval.results.files import RunResults
from ovi_eval.scoring.results_of import Scored

COMPARES = {"alone": "", "pairs": "reference, by id", "sets": "reference"}
REASONS = 3
"""Kinds of reasons that are told for each metric, the commonest first."""


def show_run(results: RunResults, scored: Scored, left_out: Sequence[str] = ()) -> None:
    """Prints a run's values with their intervals, what warns, and which clips are missing and why.

    `left_out` names metrics that could not be had here.
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
        table.add_row(Text(line(key)), *cells, Text(line(m.unit)))
    console = new_console()
    console.print(table)
    for key, m in results.metrics.items():
        if m.value is not None and m.dimension is not None:
            bias = "" if m.bias is None else f", of it a small-sample bias of about {format_number(m.bias)}"
            console.print(Text(f"{line(key)}: {m.n} clips in {m.dimension} dimensions{bias}", style="dim"))
    warnings = dict.fromkeys(
        f"{key}: {text}" for key, metric in results.metrics.items() for text in metric.warnings
    )
    for text in [*results.notes, *warnings, *missing_clips(results, scored.reasons)]:
        console.print(Text.assemble(("! ", "yellow"), line(text)))
    if left_out:
        told = f"left out: {', '.join(left_out)}; ovi-eval metrics says what each needs"
        console.print(Text(told, style="dim"))


def missing_clips(results: RunResults, reasons: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for each group of metrics that lack the same clips for the same reasons."""
    told: dict[str, list[str]] = {}
    for metric in dict.fromkeys(name for why in reasons for name in why):
        places = [place for place, why in enumerate(reasons) if metric in why]
        # Reasons that differ in their numbers only are one kind.
        kinds = Counter(re.sub(r"[0-9.]+", "#", reasons[place][metric]) for place in places)
        parts = []
        for kind, count in kinds.most_common(REASONS):
            first = next(p for p in places if re.sub(r"[0-9.]+", "#", reasons[p][metric]) == kind)
            parts.append(f"{count} as {results.clips[first].id}: {reasons[first][metric]}")
        if len(kinds) > REASONS:
            parts.append("others for other reasons")
        lacking = f"{len(places)} of {results.n_clips} clips are missing"
        why = f", as {parts[0].partition(' as ')[2]}" if len(parts) == 1 else f"; {'; '.join(parts)}"
        told.setdefault(lacking + why, []).append(metric)
    return [f"{', '.join(metrics)}: {text}" for text, metrics in told.items()]


def show_metrics() -> None:
    """Prints every metric with what it gives and needs, and how to get what is not here."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for head in ("metric", "value", "best", "unit", "version", "compares with", "here"):
        table.add_column(head, overflow="fold")
    lacks: dict[Need, list[str]] = {}
    rows: list[tuple[str, Any, str, str, str]] = []
    for name, metric in METRICS.items():
        wants = [need for need in metric.extractor.needs if missing(need)]
        for need in wants:
            lacks.setdefault(need, []).append(name)
        here = "no" if wants else "yes"
        rows.append((name, metric.values, metric.version, COMPARES[metric.compares], here))
    for name, values, version, beside, here in rows:
        for number, spec in enumerate(values):
            told = (name, version, beside, here) if number == 0 else ("", "", "", "")
            best = spec.direction.replace("_", " ")
            table.add_row(Text(told[0]), Text(spec.key), best, spec.unit, told[1], told[2], told[3])
    console = new_console()
    console.print(table)
    for need, names in lacks.items():
        said = missing(need, ", ".join(names)) or ""
        said = said.replace(" needs ", " need ", 1) if len(names) > 1 else said
        console.print(Text.assemble(("! ", "yellow"), line(said)))
    for said in FAULTS.values():
        console.print(Text.assemble(("! ", "yellow"), line(said)))
    short = "; ".join(f"{name} = {', '.join(full)}" for name, full in ALIASES.items() if name != "ball")
    console.print(Text(f"Short names: {short}; ball = all of the ball world.", style="dim"))
    console.print(Text("Each metric's definition is a page of docs/metrics.", style="dim"))
