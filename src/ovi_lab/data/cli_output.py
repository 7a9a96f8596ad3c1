"""What `ovi-data` prints: tables of names and values, and the command to type next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ovi_eval.common.shown import shown

if TYPE_CHECKING:
    from ovi_lab.data.index import BadSample


def print_next(command: str) -> None:
    """Prints the command to type next."""
    print(f"next: {shown(command, None)}", flush=True)


def skipped_rows(bad: Sequence[BadSample], most: int) -> Iterator[tuple[str, str]]:
    """Rows that name bad samples, at most so many."""
    for sample in bad[:most]:
        yield "skipped", f"{shown(sample.key)}: {shown(sample.reason, 400)}"
    if len(bad) > most:
        yield "", f"and {len(bad) - most} more"


def print_table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Prints names and values; rows without a value are left out."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, show_header=False, box=None, title_justify="left", pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, shown(value, None, to="rich"))
    Console().print(table)
