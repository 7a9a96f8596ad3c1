"""The leaderboard as Markdown, for a README or a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ovi_eval.ranking.columns import Column, grouped
from ovi_eval.ranking.table import Cell, Row
from ovi_eval.report import published, wording
from ovi_eval.report.wording import in_markdown
from ovi_eval.results.published import PublishedTable, by_benchmark

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard


def markdown(board: Leaderboard) -> str:
    """One table for each group of metrics, arms above references, then how the numbers were made."""
    parts = [f"# {in_markdown(board.title)}"]
    if board.message:
        parts.append(in_markdown(board.message))
    if board.findings:
        parts.append(
            "\n".join(f"- **{wording.KINDS[f.outcome]}**: {in_markdown(f.text)}" for f in board.findings)
        )
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
    if board.published:
        parts += _published(board.published)
    return "\n\n".join(parts) + "\n"


def table(heads: Sequence[str], rule: str, rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; `rule` is its second line, which says how the columns are aligned."""
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(cells)} |" for cells in rows)])


def _table(board: Leaderboard, columns: Sequence[Column]) -> str:
    # An arm that was not run on a benchmark has no line there; one that lacks a value has, and it shows.
    arms = [row for row in board.arms if any(_tried(row, column) for column in columns)]
    references = [row for row in board.references if any(c.id in row.cells for c in columns)]
    names = [in_markdown(row.name) for row in arms]
    names += [f"*{in_markdown(row.name)} (reference)*" for row in references]
    rows = [
        (name, wording.seed_count(row), *(_cell(row.cells.get(column.id), column) for column in columns))
        for name, row in zip(names, [*arms, *references], strict=True)
    ]
    return table(["arm", "seeds", *map(_head, columns)], "|---|--:|" + "--:|" * len(columns), rows)


def _tried(row: Row, column: Column) -> bool:
    return any(run.benchmark == column.benchmark for run in row.runs) or column.id in row.cells


def _head(column: Column) -> str:
    """The metric with its direction, below it what distinguishes it from others of its name."""
    name = f"{in_markdown(wording.metric_name(column))} {column.arrow}{in_markdown(wording.unit(column))}"
    return "<br>".join([name, *map(in_markdown, wording.distinctions(column))])


def _cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "–"
    value = wording.number(cell.value, column)
    text = f"**{value}**" if cell.rank == 1 else value + wording.partial_mark(cell)
    text = f"{text} {wording.bounds(cell.interval, column, cell.value)}".rstrip()
    versus = in_markdown(wording.compared_to_first(cell, column))
    return "<br>".join(filter(None, [text, wording.coverage(cell), versus]))


def _published(tables: Sequence[PublishedTable]) -> list[str]:
    parts = [f"## {published.TITLE}", published.CAUTION]
    for benchmark, members in by_benchmark(tables).items():
        parts.append(f"### {in_markdown(benchmark)}")
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
    return parts
