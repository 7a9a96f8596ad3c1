"""The leaderboard as Markdown, for a README or a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovi_eval.ranking.columns import Column, grouped
from ovi_eval.ranking.table import Cell, Row
from ovi_eval.report import published, wording
from ovi_eval.report.wording import in_markdown

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard


def markdown(board: Leaderboard) -> str:
    """One table for each group of metrics, arms above references, then how the numbers were had."""
    parts = [f"# {in_markdown(board.title)}"]
    if board.message:
        parts.append(in_markdown(board.message))
    if board.findings:
        parts.append(
            "\n".join(f"- **{wording.KINDS[f.outcome]}**: {in_markdown(f.text)}" for f in board.findings)
        )
    benchmarks = grouped(board.columns, "benchmark")
    if len(benchmarks) > 1:
        for benchmark, columns in benchmarks.items():
            parts.append(f"## {in_markdown(benchmark or wording.NO_BENCHMARK)}")
            parts += _groups(board, columns, "###")
    else:
        parts += [f"Benchmark: {in_markdown(benchmark)}." for benchmark in benchmarks if benchmark]
        parts += _groups(board, board.columns, "##")
    if not all(column.comparable for column in board.columns):
        parts.append("A column that is not comparable holds values of a part of the clips and is not ranked.")
    if wording.any_partial(board.arms):
        parts.append(f"{wording.PARTIAL}.")
    if board.problems:
        parts.append("## Missing\n\n" + "\n".join(f"- {in_markdown(problem)}" for problem in board.problems))
    parts.append(
        "Brackets hold the 95 % interval: Student's t over seeds, or a bootstrap over clips where there "
        f"is one run. Differences are paired, to {in_markdown(board.first)}; metrics with a value per clip by "
        "sign-flip permutation over clips, the others by paired t over seeds; p adjusted by Holm over the "
        "arms. The best arm is bold. Coverage is the share of the clips that a value rests on. References are not "
        "ranked. results.json has every number with its test."
    )
    parts += published.markdown(board.published, in_markdown)
    return "\n\n".join(parts) + "\n"


def _groups(board: Leaderboard, columns: Sequence[Column], level: str) -> list[str]:
    """A heading and a table for each metric group."""
    return [
        part
        for name, own in grouped(columns, "group").items()
        for part in (f"{level} {in_markdown(name)}", _table(board, own))
    ]


def _table(board: Leaderboard, columns: Sequence[Column]) -> str:
    lines = [
        "| arm | seeds | " + " | ".join(_head(c) for c in columns) + " |",
        "|---|--:|" + "--:|" * len(columns),
    ]
    # An arm that was not run on a benchmark has no line there; one that lacks a value has, and it shows.
    arms = [row for row in board.arms if any(_tried(row, column) for column in columns)]
    lines += [_line(row, in_markdown(row.name), columns) for row in arms]
    shown = [row for row in board.references if any(c.id in row.cells for c in columns)]
    lines += [_line(row, f"*{in_markdown(row.name)} (reference)*", columns) for row in shown]
    return "\n".join(lines)


def _tried(row: Row, column: Column) -> bool:
    return any(run.benchmark == column.benchmark for run in row.runs) or column.id in row.cells


def _head(column: Column) -> str:
    """The metric with its direction, below it what parts it from others of its name."""
    told = "".join(f"<br>{in_markdown(text)}" for text in wording.distinctions(column))
    return (
        f"{in_markdown(wording.metric_name(column))} {column.arrow}{in_markdown(wording.unit(column))}{told}"
    )


def _line(row: Row, name: str, columns: Sequence[Column]) -> str:
    cells = [_cell(row.cells.get(column.id), column) for column in columns]
    return f"| {name} | {wording.seeds(row).split(' ')[0] or '–'} | " + " | ".join(cells) + " |"


def _cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "–"
    value = wording.number(cell.value, column)
    text = f"**{value}**" if cell.rank == 1 else value + wording.partial_mark(cell)
    text = f"{text} {wording.bounds(cell.interval, column, cell.value)}".rstrip()
    if said := wording.coverage(cell):
        text += f"<br>{said}"
    versus = wording.compared_to_first(cell, column)
    return f"{text}<br>{in_markdown(versus)}" if versus else text
