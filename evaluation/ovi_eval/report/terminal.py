"""The leaderboard on the terminal, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovi_eval.ranking.columns import Column, grouped
from ovi_eval.ranking.table import Cell, Row
from ovi_eval.report import published, wording
from ovi_eval.report.wording import line

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

WIDTH = 100
_STYLES = {"better": "green", "worse": "red", "no_difference": "dim"}


def new_console() -> Console:
    """As wide as the terminal, at most 100 columns; 100 where the output goes to a file or a pipe."""
    console = Console()
    return Console(width=min(WIDTH, console.width) if console.is_terminal else WIDTH)


def show(board: Leaderboard, console: Console | None = None) -> None:
    """Prints findings, one table for each group of metrics that fits, and what is missing."""
    console = console or new_console()
    width = min(WIDTH, console.width)
    console.print(Text(line(board.title), style="bold"), width=width)
    if board.message:
        console.print(Text(line(board.message)), width=width)
    for finding in board.findings:
        style = {"supported": "green", "not_supported": "yellow", "unknown": "dim"}[finding.outcome]
        console.print(
            Text.assemble((f"{wording.KINDS[finding.outcome]}: ", style), line(finding.text)), width=width
        )
    for columns in _packed(board, width):
        console.print(_table(board, columns), width=width)
    console.print(
        Text(
            "± half of the 95 % interval: Student's t over seeds, or a bootstrap over clips where there is "
            f"one run. Below it the coverage (the share of the clips that the value rests on) and the paired "
            f"difference to {line(board.first, 60)}, p adjusted by Holm. Best underlined.",
            style="dim",
        ),
        width=width,
    )
    if wording.any_partial(board.arms):
        console.print(Text(f"{wording.PARTIAL}.", style="yellow"), width=width)
    for problem in [*board.problems, *board.clip_notes()]:
        console.print(Text.assemble(("! ", "yellow"), line(problem)), width=width)
    published.show(board.published, console, width)


def _table(board: Leaderboard, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("arm", overflow="fold", max_width=28)
    table.add_column("seeds", justify="right")
    for column in columns:
        group = column.id.rpartition("/")[0]
        table.add_column(Text(f"{line(group)}\n{_named(column)}"), justify="right")
    for row in board.arms:
        table.add_row(Text(line(row.name)), _count(row), *(_cell(row.cells.get(c.id), c) for c in columns))
    if any(c.id in row.cells for row in board.references for c in columns):
        table.add_section()
        table.add_row(Text("beside, not ranked:", style="dim"))
        for row in board.references:
            cells = (_cell(row.cells.get(c.id), c) for c in columns)
            table.add_row(Text(line(row.name), style="dim italic"), _count(row), *cells)
    return table


def _count(row: Row) -> str:
    return wording.seeds(row).split(" ")[0] or "–"


def _cell(cell: Cell | None, column: Column) -> Text:
    if cell is None:
        return Text("–", style="dim")
    best = "underline" if cell.rank == 1 else ""
    text = Text.assemble(
        (wording.number(cell.value, column), best),
        wording.partial_mark(cell),
        wording.half_width(cell, column),
    )
    if said := wording.coverage(cell):
        text.append(f"\n{said}", "yellow" if cell.partial else "dim")
    if cell.versus_first is not None:
        text.append(f"\n{wording.compared_to_first(cell, column)}", _STYLES[cell.versus_first.verdict])
    return text


def _packed(board: Leaderboard, width: int) -> Iterator[list[Column]]:
    """Whole metric groups side by side while they fit; a group too wide for one table goes over several."""
    names = [row.name for row in [*board.arms, *board.references]]
    room = width - min(28, max(len(name) for name in names)) - 9
    packed: list[Column] = []
    used = 0
    for group in grouped(board.columns, "group").values():
        widths = [_width(board, column) for column in group]
        if packed and used + sum(widths) > room:
            yield packed
            packed, used = [], 0
        for column, wide in zip(group, widths, strict=True):
            if packed and used + wide > room:
                yield packed
                packed, used = [], 0
            packed.append(column)
            used += wide
    if packed:
        yield packed


def _width(board: Leaderboard, column: Column) -> int:
    """Characters the column takes, the space around it included."""
    found: list[Row] = [row for row in [*board.arms, *board.references] if column.id in row.cells]
    lines = [said for row in found for said in _cell(row.cells[column.id], column).plain.split("\n")]
    return max(len(said) for said in [_named(column), *lines]) + 2


def _named(column: Column) -> str:
    return line(f"{wording.column_name(column)} {column.arrow}{wording.unit(column)}", 100)
