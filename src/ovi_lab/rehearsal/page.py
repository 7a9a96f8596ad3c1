"""A report as blocks, drawn on a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Column, Table


@dataclass(frozen=True)
class Block:
    """A heading, then lines, then a table; each may be missing. Of a table's columns, the first is text."""

    heading: str = ""
    lines: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def print_page(console: Console, blocks: Sequence[Block]) -> None:
    """On a terminal."""
    for block in blocks:
        if block.heading:
            console.print(f"\n[bold]{block.heading}[/]")
        for line in block.lines:
            console.print(line, highlight=False, markup=False)
        if block.rows:
            first, *numbers = block.columns
            table = Table(first, *[Column(name, justify="right") for name in numbers])
            for row in block.rows:
                table.add_row(*map(_plain, row))
            console.print(table)


def _plain(cell: str) -> str:
    return cell.replace("[", r"\[")


def markdown(blocks: Sequence[Block], level: int = 2) -> str:
    """As Markdown, with headings of that level."""
    parts = []
    for block in blocks:
        if block.heading:
            parts.append(f"{'#' * level} {block.heading}")
        if block.lines:
            parts.append("\n".join(f"- {line}" for line in block.lines))
        if block.rows:
            head = f"| {' | '.join(block.columns)} |"
            rule = "|---|" + "---:|" * (len(block.columns) - 1)
            rows = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in block.rows]
            parts.append("\n".join([head, rule, *rows]))
    return "\n\n".join(parts) + "\n"
