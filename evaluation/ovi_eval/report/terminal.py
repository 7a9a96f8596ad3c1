"""The leaderboard on the terminal, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovi_eval.ranking.columns import Column, grouped
from ovi_eval.ranking.table import Cell
from ovi_eval.report import curve_tables, published, wording
from ovi_eval.report.wording import line
from ovi_eval.results.published import PublishedTable, by_benchmark

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard
    from ovi_eval.ranking.sweep import Sweep

WIDTH, _NAME_WIDTH, _METRIC_WIDTH, _TITLE_WIDTH = 100, 28, 28, 12
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
        for text in wording.power_lines(finding) if finding.outcome == "not_supported" else ():
            console.print(Text(f"  {line(text)}", style="dim"))
    if board.sweep is None:
        _show_arms(board, console)
    else:
        _show_curves(board, board.sweep, console)
    for text in wording.legend(board.arms):
        console.print(Text(text, style="yellow"))
    _show_references(board, console)
    warn(console, [*board.problems, *board.clip_notes()])
    if board.published:
        _show_published(board.published, console)


def _show_arms(board: Leaderboard, console: Console) -> None:
    room = console.width - min(_NAME_WIDTH, max(len(row.name) for row in board.arms)) - 9
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


def _show_curves(board: Leaderboard, sweep: Sweep, console: Console) -> None:
    """The first metric's tables: with those of all metrics the first would scroll out of sight."""
    tables = curve_tables.value_tables(board, sweep)
    for one in tables:
        if one.column is not tables[0].column:
            break
        title = f"{line(one.column.id)} {one.column.arrow}" + (f", {line(one.title)}" if one.title else "")
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=Text(title), title_justify="left"
        )
        for head in one.heads:
            table.add_column(Text(line(head)), justify="right", overflow="fold")
        for row in one.rows:
            table.add_row(*(Text(line(cell)) for cell in row))
        console.print(table)
        for note in one.notes:
            console.print(Text(line(note), style="dim"))
    more = "" if len(board.columns) == 1 else " leaderboard.html and leaderboard.md have the other metrics."
    console.print(Text(f"{curve_tables.METHOD}{more}", style="dim"))


def _table(board: Leaderboard, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("arm", overflow="fold", max_width=_NAME_WIDTH)
    table.add_column("seeds", justify="right")
    for column in columns:
        title = textwrap.wrap(line(column.title, 100), _width(board, column) - 2)
        group = column.id.rpartition("/")[0]
        raw = f"{line(group)}/\n{_heading(column)}" if group else _heading(column)
        table.add_column(Text("\n").join(Text(part) for part in [*title, raw]), justify="right")
    for row in board.arms:
        cells = (_cell(row.cells.get(column.id), column) for column in columns)
        name = Text("\n").join([Text(line(row.name)), *(Text(line(text), "yellow") for text in row.lineage)])
        table.add_row(name, wording.seed_count(row), *cells)
    return table


def _cell(cell: Cell | None, column: Column) -> Text:
    if cell is None:
        return Text("–", style="dim")
    best = "underline" if cell.rank == 1 else ""
    text = Text.assemble(
        (wording.number(cell.value, column), best),
        wording.marks(cell),
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
    cells = [_cell(row.cells.get(column.id), column) for row in board.arms]
    lines = [text for cell in cells for text in cell.plain.split("\n")]
    return max(_TITLE_WIDTH, *(len(text) for text in [_heading(column), *lines])) + 2


def _heading(column: Column) -> str:
    return line(f"{wording.column_name(column)} {column.arrow}{wording.unit(column)}", 100)


def _show_references(board: Leaderboard, console: Console) -> None:
    """A metric a line and a reference a column, so that each reference stands here once, and briefly."""
    columns = [c for c in board.columns if any(c.id in row.cells for row in board.references)]
    if not columns:
        return
    console.print(Text("References, not ranked", style="bold"))
    cells = {row.name: [_short_cell(row.cells.get(c.id), c) for c in columns] for row in board.references}
    metrics = [Text(f"{line(column.id)} {column.arrow}") for column in columns]
    room = console.width - min(_METRIC_WIDTH, max(map(len, metrics))) - 2
    widths = {name: max(len(line(name)), *map(len, own)) for name, own in cells.items()}
    if (
        sum(widths.values()) + 3 * len(widths) > room
    ):  # rather long names in several lines than a second table
        widths = {name: max(_TITLE_WIDTH, *map(len, own)) for name, own in cells.items()}
    for names in _packed([[(name, width + 3)] for name, width in widths.items()], room):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column("metric", overflow="fold", max_width=_METRIC_WIDTH)
        for name in names:
            parts = [line(name)]
            if len(parts[0]) > widths[name]:  # names here break after underscores
                parts = textwrap.wrap(parts[0].replace("_", "_ "), widths[name])
            head = "\n".join(part.replace("_ ", "_") for part in parts)
            table.add_column(Text(head), justify="right", max_width=widths[name])
        for place, metric in enumerate(metrics):
            table.add_row(metric, *(cells[name][place] for name in names))
        console.print(table)


def _short_cell(cell: Cell | None, column: Column) -> Text:
    if cell is None:
        return Text("–", style="dim")
    return Text(wording.number(cell.value, column) + wording.half_width(cell, column))


def _show_published(tables: Sequence[PublishedTable], console: Console) -> None:
    """What there is, a line a benchmark: the numbers themselves would scroll one's own out of sight."""
    console.print(Text(f"\n{published.TITLE}", style="bold"))
    for benchmark, members in by_benchmark(tables).items():
        console.print(Text(f"{line(benchmark)}: {published.extent(members)}"))
    said = "leaderboard.html and leaderboard.md have the values, each table with its source."
    console.print(Text(f"{said} {published.CAUTION}", style="dim"))
