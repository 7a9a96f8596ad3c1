"""A model's values, each with its interval, its place among the others and all that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ovi_eval.ranking.table import Cell, Column, Making, Row
from ovi_eval.report import words
from ovi_eval.report.html.filters import tags
from ovi_eval.report.html.panels import strip
from ovi_eval.report.palette import breakable
from ovi_eval.report.text import escape
from ovi_eval.results.files import MetricValue

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard


def measures(board: Leaderboard, row: Row, tint: str | None) -> str:
    """HTML of a card for each column in which the row has a value, or was to have one and has none; those of a
    benchmark together.
    """
    cards: dict[str, list[str]] = {}
    for column in board.columns:
        made = values_behind(row, column)
        cell = row.cells.get(column.id)
        own = cards.setdefault(column.benchmark, [])
        if cell is not None:
            own.append(_card(board, row, column, cell, made, tint))
        elif made:
            own.append(_empty(column, made))
    parts = []
    for benchmark, own in cards.items():
        title = f"<h3>{escape(benchmark or words.NO_BENCHMARK)}</h3>" if len(cards) > 1 else ""
        if own:
            parts.append(f'<div class="benchmark">{title}<ul class="measures">{"".join(own)}</ul></div>')
    return "".join(parts)


def values_behind(row: Row, column: Column) -> list[MetricValue]:
    """What the row's runs say of a column, those of its making only."""
    return [
        metric
        for run in row.runs
        if (metric := run.metrics.get(column.key)) is not None and Making.of(run, metric) == making_of(column)
    ]


def making_of(column: Column) -> Making:
    """What a value's making must be to stand in a column."""
    return Making(column.variant, column.version, column.benchmark, column.comparable)


def _card(
    board: Leaderboard, row: Row, column: Column, cell: Cell, made: Sequence[MetricValue], tint: str | None
) -> str:
    bounds = words.bounds(cell.interval, column, cell.value)
    interval = f' <span class="interval">{bounds}</span>' if bounds else ""
    facts = [_place(board, row, column, cell)]
    if cell.n_clips is not None:
        facts += [f"N {cell.n_clips}", f"coverage {words.share(cell.coverage)}"]
    if cell.interval is None:
        facts.append("no interval")
    if column.version:
        facts.append(f"version {column.version}")
    listed = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    drawn = strip(row, [*board.arms, *board.references], column, tint)
    value = f"{words.number(cell.value, column)}{words.partial(cell)}{escape(words.unit(column))}"
    return (
        f'<li class="measure"{tags(column)}>{_head(column)}<p class="value">{value}{interval}</p>'
        f'{drawn}<ul class="facts">{listed}</ul>{_warnings(column, made, cell)}{_behind(column, cell, made)}</li>'
    )


def _empty(column: Column, made: Sequence[MetricValue]) -> str:
    facts = f'<ul class="facts"><li>N 0</li><li>coverage {words.share(made[0].coverage)}</li></ul>'
    return (
        f'<li class="measure"{tags(column)}>{_head(column)}<p class="value">–</p>'
        f'<p class="note">no clip could be scored</p>{facts}{_warnings(column, made)}</li>'
    )


def _head(column: Column) -> str:
    name = f"<h4>{breakable(words.bare(column))} {column.arrow}</h4>"
    return name + (f'<p class="variant">{breakable(column.variant)}</p>' if column.variant else "")


def _place(board: Leaderboard, row: Row, column: Column, cell: Cell) -> str:
    if cell.rank is None:
        return "reference" if row.kind == "reference" else "not ranked"
    of = sum(1 for arm in board.arms if column.id in arm.cells and not arm.cells[column.id].partial)
    return f"rank {cell.rank} of {of}" if of > 1 else "the only one"


def _warnings(column: Column, made: Sequence[MetricValue], cell: Cell | None = None) -> str:
    told = list(dict.fromkeys(text for metric in made for text in metric.warnings))
    if cell is not None and cell.partial:
        told.insert(0, words.PARTIAL)
    if not column.comparable:
        told.insert(0, words.NOT_COMPARABLE)
    biases = [metric.bias for metric in made if metric.bias is not None]
    if biases:
        mean = sum(biases) / len(biases)
        told.append(f"too high by about {words.number(mean, column)}, as the clips are few")
    items = "".join(f"<li>{escape(text)}</li>" for text in told)
    return f'<ul class="warnings">{items}</ul>' if items else ""


def _behind(column: Column, cell: Cell, made: Sequence[MetricValue]) -> str:
    """How the value came about: intervals and tests, the features, preprocessing, the weights' sha256."""
    facts = [("value", "\n".join(words.explain(cell, column)))]
    if len(cell.by_seed) > 1:
        seeds = ", ".join(f"{seed}: {words.number(v, column)}" for seed, v in cell.by_seed.items())
        facts.append(("by seed", seeds))
    facts += [("dimension", str(d)) for d in dict.fromkeys(m.dimension for m in made) if d is not None]
    facts += [("preprocessing", p) for p in dict.fromkeys(m.preprocessing for m in made) if p]
    weights: Mapping[str, str] = {name: digest for metric in made for name, digest in metric.weights.items()}
    terms = "".join(f"<dt>{escape(key)}</dt><dd>{_lines(value)}</dd>" for key, value in facts)
    terms += "".join(
        f"<dt>{breakable(name)}</dt><dd><code>sha256 {escape(digest)}</code></dd>"
        for name, digest in weights.items()
    )
    return f"<details><summary>how it was measured</summary><dl>{terms}</dl></details>"


def _lines(text: str) -> str:
    return "\n".join(escape(said) for said in text.splitlines())
