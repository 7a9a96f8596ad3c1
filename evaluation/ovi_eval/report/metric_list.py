"""The list of metrics on the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from ovi_eval.common.needs import Need, missing
from ovi_eval.registry import ALIASES, FAULTS, METRICS, WORLDS
from ovi_eval.report.terminal import narrow_console, warn
from ovi_eval.results.metric_titles import TITLES

COMPARES = {"alone": "", "pairs": "reference, by id", "sets": "reference"}


def show_metrics() -> None:
    """Prints every metric with what it gives and needs, and how to get what is not here."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    keys = [spec.key for metric in METRICS.values() for spec in metric.values]
    # Names that are typed are never broken, and the last column is not squeezed away.
    least = {"metric": max(map(len, METRICS)), "value": max(map(len, keys)), "here": 4}
    for head in ("metric", "value", "best", "unit", "version", "compares with", "here"):
        table.add_column(head, overflow="fold", min_width=least.get(head))
    lacking: dict[Need, list[str]] = {}
    for name, metric in METRICS.items():
        absent = [need for need in metric.extractor.needs if missing(need)]
        for need in absent:
            lacking.setdefault(need, []).append(name)
        facts = (name, metric.version, COMPARES[metric.compares], "no" if absent else "yes")
        for spec in metric.values:
            first, *last = map(Text, facts)
            title = Text(TITLES.get(spec.key, spec.title), style="dim")
            key = Text("" if spec.key == name and title else spec.key)
            value = Text("\n").join(filter(None, [key, title]))
            table.add_row(first, value, spec.direction.replace("_", " "), spec.unit, *last)
            facts = ("", "", "", "")
    console = narrow_console()
    console.print(table)
    warnings = []
    for need, names in lacking.items():
        text = missing(need, ", ".join(names)) or ""
        warnings.append(text.replace(" needs ", " need ", 1) if len(names) > 1 else text)
    warn(console, [*warnings, *FAULTS.values()])
    short = "; ".join(
        f"{name} = {', '.join(full)}" for name, full in ALIASES.items() if name not in WORLDS.values()
    )
    console.print(Text(f"Short names: {short}; ball, mouth = all of that world.", style="dim"))
    console.print(Text("Each metric's definition is a page of docs/metrics.", style="dim"))
