"""The leaderboard on the terminal, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovi_eval.ranking.columns import Column, grouped
from ovi_eval.ranking.table import Cell, Row
from ovi_eval.report import published, wording
from ovi_eval.report.wording import line
from ovi_eval.results.published import PublishedTable, by_benchmark

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

WIDTH, _NAME_WIDTH = 100, 28
_VERDICTS = {"better": "green", "worse": "red", "no_difference": "dim"}
_OUTCOMES = {"supported": "green", "not_supported": "yellow", "unknown": "dim"}
T = TypeVar("T")


def narrow_console(console: Console | None = None) -> Console:
    """The console at most 100 columns wide; a new one as wide as the terminal, or 100 for a file or a pipe."""
    console, new = console or Console(), console is None
    console.width = WIDTH if new and not console.is_terminal else min(WIDTH, console.width)
    return console


def warn(console: Console, texts: Iterable[str]) -> None:
    """Prints a line for each warning."""
    for text in texts:
        console.print(Text.assemble(("! ", "yellow"), line(text)))


def show(board: Leaderboard, console: Console | None = None) -> None:
    """Prints findings, one table for each group of metrics that fits, and what is missing."""
    console = narrow_console(console)
    console.print(Text(line(board.title), style="bold"))
    if board.message:
        console.print(Text(line(board.message)))
    for finding in board.findings:
        outcome = (f"{wording.KINDS[finding.outcome]}: ", _OUTCOMES[finding.outcome])
        console.print(Text.assemble(outcome, line(finding.text)))
    rows = [*board.arms, *board.references]
    room = console.width - min(_NAME_WIDTH, max(len(row.name) for row in rows)) - 9
    groups = grouped(board.columns, "group").values()
    for columns in _packed([[(c, _width(board, c)) for c in group] for group in groups], room):
        console.print(_table(board, columns))
    console.print(
        Text(
            "± half of the 95 % interval: Student's t over seeds, or a bootstrap over clips where there is "
            f"one run. Below it the coverage (the share of the clips that the value rests on) and the paired "
            f"difference to {line(board.first, 60)}, p adjusted by Holm. Best underlined.",
            style="dim",
        )
    )
    if wording.any_partial(board.arms):
        console.print(Text(f"{wording.PARTIAL}.", style="yellow"))
    warn(console, [*board.problems, *board.clip_notes()])
    if board.published:
        _show_published(board.published, console)


def _table(board: Leaderboard, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("arm", overflow="fold", max_width=_NAME_WIDTH)
    table.add_column("seeds", justify="right")
    for column in columns:
        group = column.id.rpartition("/")[0]
        table.add_column(Text(f"{line(group)}\n{_heading(column)}"), justify="right")
    _add_rows(table, board.arms, columns)
    if any(column.id in row.cells for row in board.references for column in columns):
        table.add_section()
        table.add_row(Text("beside, not ranked:", style="dim"))
        _add_rows(table, board.references, columns, "dim italic")
    return table


def _add_rows(table: Table, rows: Sequence[Row], columns: Sequence[Column], style: str = "") -> None:
    for row in rows:
        cells = (_cell(row.cells.get(column.id), column) for column in columns)
        table.add_row(Text(line(row.name), style=style), wording.seed_count(row), *cells)


def _cell(cell: Cell | None, column: Column) -> Text:
    if cell is None:
        return Text("–", style="dim")
    best = "underline" if cell.rank == 1 else ""
    text = Text.assemble(
        (wording.number(cell.value, column), best),
        wording.partial_mark(cell),
        wording.half_width(cell, column),
    )
    if coverage := wording.coverage(cell):
        text.append(f"\n{coverage}", "yellow" if cell.partial else "dim")
    if cell.versus_first is not None:
        text.append(f"\n{wording.compared_to_first(cell, column)}", _VERDICTS[cell.versus_first.verdict])
    return text


def _packed(groups: Iterable[Sequence[tuple[T, int]]], room: int) -> Iterator[list[T]]:
    """Groups of columns, each with its width, side by side while they fit; one too wide for a table is split."""
    packed: list[T] = []
    used = 0
    for group in groups:
        for place, (column, width) in enumerate(group):
            needed = width if place else sum(width for _, width in group)
            if packed and used + needed > room:
                yield packed
                packed, used = [], 0
            packed.append(column)
            used += width
    yield packed


def _width(board: Leaderboard, column: Column) -> int:
    """Characters the column takes, the space around it included."""
    cells = [_cell(row.cells.get(column.id), column) for row in [*board.arms, *board.references]]
    lines = [text for cell in cells for text in cell.plain.split("\n")]
    return max(len(text) for text in [_heading(column), *lines]) + 2


def _heading(column: Column) -> str:
    return line(f"{wording.column_name(column)} {column.arrow}{wording.unit(column)}", 100)


def _show_published(tables: Sequence[PublishedTable], console: Console) -> None:
    console.print(Text(f"\n{published.TITLE}", style="bold"))
    console.print(Text(published.CAUTION, style="dim"))
    for benchmark, members in by_benchmark(tables).items():
        console.print(Text(f"\n{line(benchmark)}", style="bold"))
        for table in members:
            console.print(Text(line(table.table)))
            room = console.width - min(_NAME_WIDTH, max(map(len, table.rows))) - 2
            for metrics in _packed([[(m, _published_width(table, m))] for m in table.metrics()], room):
                console.print(_published_table(table, metrics))
            console.print(Text(line(published.origin(table)), style="dim"))


def _published_table(published_table: PublishedTable, metrics: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("system", overflow="fold", max_width=_NAME_WIDTH)
    for metric in metrics:
        table.add_column(Text(line(published.head(metric))), justify="right", no_wrap=True)
    for system, values in published_table.rows.items():
        table.add_row(Text(line(system)), *(published.number(values.get(metric)) for metric in metrics))
    return table


def _published_width(table: PublishedTable, metric: str) -> int:
    numbers = [published.number(values.get(metric)) for values in table.rows.values()]
    return max(len(text) for text in [published.head(metric), *numbers]) + 3
