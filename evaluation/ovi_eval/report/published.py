"""Published numbers beside the leaderboard: a section of their own on the terminal, in Markdown, and (published.html)
on the page.

Nothing in it is ranked, made bold or compared with a measured value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovi_eval.report.wording import line
from ovi_eval.results.published import PublishedTable, by_benchmark

TITLE = "Published by others"
CAUTION = (
    "Read, not measured here: values as printed, under their sources' own names. Prompts, evaluators and "
    "versions of metrics differ from table to table, so nothing here is ranked, and nothing compares with the "
    "leaderboard."
)


def show(tables: Sequence[PublishedTable], console: Console, width: int) -> None:
    """Prints the section, `width` columns wide at most; nothing where there are no tables."""
    if not tables:
        return
    console.print(Text(f"\n{TITLE}", style="bold"), width=width)
    console.print(Text(CAUTION, style="dim"), width=width)
    for benchmark, members in by_benchmark(tables).items():
        console.print(Text(f"\n{line(benchmark)}", style="bold"), width=width)
        for published in members:
            console.print(Text(line(published.table)), width=width)
            for metrics in _packed(published, width):
                console.print(_terminal_table(published, metrics), width=width)
            console.print(Text(line(origin(published)), style="dim"), width=width)


def markdown(tables: Sequence[PublishedTable], escaped: Callable[[str], str]) -> list[str]:
    """The section as paragraphs of Markdown; none where there are no tables. `escaped` guards names."""
    if not tables:
        return []
    parts = [f"## {TITLE}", CAUTION]
    for benchmark, members in by_benchmark(tables).items():
        parts.append(f"### {escaped(benchmark)}")
        for published in members:
            metrics = published.metrics()
            heads = " | ".join(escaped(head(metric)) for metric in metrics)
            lines = [f"| system | {heads} |", "|---|" + "--:|" * len(metrics)]
            for system, values in published.rows.items():
                cells = " | ".join(number(values.get(metric)) for metric in metrics)
                lines.append(f"| {escaped(system)} | {cells} |")
            parts += [escaped(published.table), "\n".join(lines), escaped(origin(published))]
    return parts


def origin(published: PublishedTable) -> str:
    """Where the numbers are from and how they were read, in one line."""
    hand = "read first-hand" if published.first_hand else "read second-hand"
    note = f" {published.note}" if published.note else ""
    return f"Source: {published.source}; {hand}: {published.seen_in}.{note}"


def head(metric: str) -> str:
    """A metric's heading: `fvd_pct` -> `fvd (%)`."""
    return f"{metric.removesuffix('_pct')} (%)" if metric.endswith("_pct") else metric


def number(value: float | None) -> str:
    """As printed by the source, but for zeros at the end."""
    return "–" if value is None else repr(value).replace("-", "−")


def _terminal_table(published: PublishedTable, metrics: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("system", overflow="fold", max_width=_NAME_WIDE)
    for metric in metrics:
        table.add_column(Text(line(head(metric))), justify="right", no_wrap=True)
    for system, values in published.rows.items():
        table.add_row(Text(line(system)), *(number(values.get(metric)) for metric in metrics))
    return table


_NAME_WIDE = 28


def _packed(published: PublishedTable, width: int) -> Iterator[list[str]]:
    """The metrics in parts that fit beside the systems' names."""
    room = width - min(_NAME_WIDE, max(len(system) for system in published.rows)) - 2
    packed: list[str] = []
    used = 0
    for metric in published.metrics():
        found = [number(values.get(metric)) for values in published.rows.values()]
        wide = max(len(text) for text in [head(metric), *found]) + 3
        if packed and used + wide > room:
            yield packed
            packed, used = [], 0
        packed.append(metric)
        used += wide
    yield packed
