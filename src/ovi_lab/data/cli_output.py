"""What `ovi-data` prints: tables of names and values, and the command to type next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ovi_eval.common.shown import shown

if TYPE_CHECKING:
    from ovi_lab.data.index import BadSample
    from ovi_lab.data.pack_options import PackOptions, PackReport


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


def pack_rows(report: PackReport, options: PackOptions) -> list[tuple[str, str]]:
    """What packing has made of a folder."""
    rows = [
        ("files", f"{report.files}, {len(report.skipped)} skipped"),
        ("clips", str(report.clips)),
        ("shards", ", ".join(map(str, report.shards))),
        ("replaced", ", ".join(map(str, report.replaced))),
    ]
    if options.store == "original":
        rows.append(("stored", "files as they are; --size, --fps and --sample-rate change nothing"))
    else:
        for rate, count in sorted(report.resampled.items()):
            rows.append(("resampled", f"{_files(count)} from {rate} Hz to {options.sample_rate} Hz"))
        for fps, count in sorted(report.retimed.items()):
            row = f"{_files(count)} from {fps:g} to {options.fps:g} frames/s, by their frames' times"
            rows.append(("retimed", row))
    for name, what, by_file in (
        ("tails", "after the last whole clip left out", report.tails),
        ("padded", "of silence where sound has not begun or has ended", report.padded),
        ("lost", "of lost sound made silence", report.lost_sound),
    ):
        if by_file:
            rows.append((name, f"{sum(by_file.values()):.2f} s {what}, in {_files(len(by_file))}"))
            longest = sorted(by_file.items(), key=lambda item: -item[1])
            rows += [("", f"{seconds:.2f} s: {shown(file)}") for file, seconds in longest[:10]]
    rows += [("ignored", line) for line in report.ignored]
    return [*rows, *skipped_rows(report.skipped, len(report.skipped))]


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"
