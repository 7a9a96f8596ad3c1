"""The leaderboard as Markdown, for a README or a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ovi_eval.common.shown import shown
from ovi_eval.ranking.columns import Column, grouped
from ovi_eval.ranking.table import Cell, Row
from ovi_eval.report import curve_tables, published, wording
from ovi_eval.report.wording import in_markdown
from ovi_eval.results.published import PublishedTable, by_benchmark

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard
    from ovi_eval.ranking.sweep import Sweep


def markdown(board: Leaderboard) -> str:
    """One table of the arms for each group of metrics, one of the references, then how the numbers were made."""
    parts = [f"# {in_markdown(board.title)}"]
    if board.message:
        parts.append(in_markdown(board.message))
    if board.findings:
        lines = []
        for finding in board.findings:
            lines.append(f"- **{wording.KINDS[finding.outcome]}**: {in_markdown(finding.text)}")
            lines += [f"  - {in_markdown(text)}" for text in wording.power_lines(finding)]
        parts.append("\n".join(lines))
    parts += _arms(board) if board.sweep is None else _curves(board, board.sweep)
    if any(row.cells for row in board.references):
        parts += ["## References, not ranked", _references(board)]
    if not all(column.comparable for column in board.columns):
        parts.append("A column that is not comparable holds values of a part of the clips and is not ranked.")
    parts += wording.legend(board.arms)
    if board.problems:
        parts.append("## Missing\n\n" + "\n".join(f"- {in_markdown(problem)}" for problem in board.problems))
    parts.append(
        _METHOD.format(first=in_markdown(board.first)) if board.sweep is None else curve_tables.METHOD
    )
    if board.published:
        parts += _published(board.published)
    return "\n\n".join(parts) + "\n"


_METHOD = (
    "Brackets hold the 95 % interval: Student's t over seeds, or a bootstrap over clips where there "
    "is one run. Differences are paired, to {first}; metrics with a value per clip by "
    "sign-flip permutation over clips, the others by paired t over seeds; p adjusted by Holm over the "
    "arms. The best arm is bold. Coverage is the share of the clips that a value rests on. References are not "
    "ranked. results.json has every number with its test."
)


def _arms(board: Leaderboard) -> list[str]:
    """A table of the arms for each group of metrics, on each benchmark."""
    parts = []
    benchmarks = grouped(board.columns, "benchmark")
    for benchmark, columns in benchmarks.items():
        level = "##"
        if len(benchmarks) > 1:
            parts.append(f"## {in_markdown(benchmark or wording.NO_BENCHMARK)}")
            level = "###"
        elif benchmark:
            parts.append(f"Benchmark: {in_markdown(benchmark)}.")
        for name, own in grouped(columns, "group").items():
            parts += [f"{level} {in_markdown(name)}", _table(board, own)]
    return parts


def _curves(board: Leaderboard, sweep: Sweep) -> list[str]:
    """A table for each metric, its numbers one below the other."""
    parts = []
    heading = None
    for one in curve_tables.value_tables(board, sweep):
        if one.column is not heading:
            heading = one.column
            parts.append(f"## {_head(one.column).replace('<br>', ', ')}")
        if one.title:
            parts.append(f"**{in_markdown(one.title)}**")
        rows = [[in_markdown(cell) for cell in row] for row in one.rows]
        parts.append(table([in_markdown(head) for head in one.heads], "|--:" * len(one.heads) + "|", rows))
        if one.notes:
            parts.append("\n".join(f"- {in_markdown(note)}" for note in one.notes))
    if len(sweep.axes.x) > 1:
        parts.append(curve_tables.EFFECTS)
    return parts


def table(heads: Sequence[str], rule: str, rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; `rule` is its second line, which says how the columns are aligned."""
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(cells)} |" for cells in rows)])


def _table(board: Leaderboard, columns: Sequence[Column]) -> str:
    # An arm that was not run on a benchmark has no line there; one that lacks a value has, and it shows.
    arms = [row for row in board.arms if any(_tried(row, column) for column in columns)]
    rows = [
        (
            "<br>".join(map(in_markdown, [row.name, *row.lineage])),
            wording.seed_count(row),
            *(_cell(row.cells.get(column.id), column) for column in columns),
        )
        for row in arms
    ]
    return table(["arm", "seeds", *map(_head, columns)], "|---|--:|" + "--:|" * len(columns), rows)


def _references(board: Leaderboard) -> str:
    """A metric a line, a reference a column: each reference stands here once, however many tables the arms have."""
    several = len({column.benchmark for column in board.columns}) > 1
    rows = []
    for column in board.columns:
        cells = [row.cells.get(column.id) for row in board.references]
        if any(cells):
            where = f"<br>{in_markdown(column.benchmark or wording.NO_BENCHMARK)}" if several else ""
            rows.append((_head(column) + where, *(_cell(cell, column) for cell in cells)))
    heads = ["metric", *(in_markdown(row.name) for row in board.references)]
    return table(heads, "|---|" + "--:|" * len(board.references), rows)


def _tried(row: Row, column: Column) -> bool:
    return any(run.benchmark == column.benchmark for run in row.runs) or column.id in row.cells


def _head(column: Column) -> str:
    """The metric with its direction, below it its raw name and what distinguishes it from others of its name."""
    title = wording.titled(column)
    name = in_markdown(f"{title} {column.arrow}{wording.unit(column, title)}")
    raw = [wording.raw_name(column)] if column.title else []
    return "<br>".join([name, *map(in_markdown, [*raw, *wording.distinctions(column)])])


def _cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "–"
    value = wording.number(cell.value, column)
    text = (f"**{value}**" if cell.rank == 1 else value) + wording.marks(cell)
    text = f"{text} {wording.bounds(cell.interval, column, cell.value)}".rstrip()
    versus = in_markdown(wording.compared_to_first(cell, column))
    return "<br>".join(filter(None, [text, wording.coverage(cell), versus]))


def _published(tables: Sequence[PublishedTable]) -> list[str]:
    parts = [f"## {published.TITLE}", published.CAUTION]
    for benchmark, members in by_benchmark(tables).items():
        head = f"{shown(benchmark, to='html')}: {published.extent(members)}"
        parts.append(f"<details><summary>{head}</summary>")
        for member in members:
            metrics = member.metrics()
            rows = (
                (in_markdown(system), *(published.number(values.get(metric)) for metric in metrics))
                for system, values in member.rows.items()
            )
            heads = ["system", *(in_markdown(published.head(metric)) for metric in metrics)]
            parts += [
                in_markdown(member.table),
                table(heads, "|---|" + "--:|" * len(metrics), rows),
                in_markdown(published.origin(member)),
            ]
        parts.append("</details>")
    return parts
