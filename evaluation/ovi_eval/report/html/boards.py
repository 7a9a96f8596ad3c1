"""The tables of the page: models in rows, metrics in columns, as many metrics side by side as a page is wide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ovi_eval.ranking.table import Cell, Column, Row
from ovi_eval.report import words
from ovi_eval.report.html.filters import tags
from ovi_eval.report.html.panels import domain, whisker
from ovi_eval.report.palette import breakable, colour, dot
from ovi_eval.report.text import escape

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

_DIRECTIONS = {
    "higher": "higher is better",
    "lower": "lower is better",
    "closer_to_reference": "best near the first reference",
}
# Pixels between the margins of a wide screen, of a column, and of what stands around a name.
_PAGE_WIDE, _COLUMN_WIDE, _AROUND_NAME, _NAME_WIDE = 1130, 136, 48, 240

Groups = dict[str, list[Column]]
Spans = Mapping[str, tuple[float, float]]
Addresses = Mapping[tuple[str, str], str]


def boards(board: Leaderboard, addresses: Addresses) -> str:
    """HTML of all tables, those of one benchmark together. `addresses`: of the models' own pages, by name
    and kind."""
    parts = []
    benchmarks = list(dict.fromkeys(column.benchmark for column in board.columns))
    for benchmark in benchmarks:
        own = [column for column in board.columns if column.benchmark == benchmark]
        title = f"<h3>{escape(benchmark or words.NO_BENCHMARK)}</h3>" if len(benchmarks) > 1 else ""
        tables = "".join(_table(board, groups, addresses) for groups in _in_lines(board, own))
        parts.append(f'<div class="benchmark">{title}<div class="boards">{tables}</div></div>')
    return "".join(parts)


def _in_lines(board: Leaderboard, columns: Sequence[Column]) -> list[Groups]:
    """The metric groups in order, as many to a table as fit; one which fits beside earlier ones moves up to them."""
    grouped: Groups = {}
    for column in columns:
        grouped.setdefault(column.group, []).append(column)
    longest = max(len(row.name) for row in [*board.arms, *board.references])
    arm = _AROUND_NAME + min(_NAME_WIDE, 7.3 * longest)
    fit = max(1, int((_PAGE_WIDE - arm) / _COLUMN_WIDE))
    # As many columns in each table, rather than full ones and a rest.
    most = math.ceil(len(columns) / math.ceil(len(columns) / fit))
    lines: list[Groups] = []
    for name, members in grouped.items():
        for line in lines:
            if sum(map(len, line.values())) + len(members) <= most:
                line[name] = members
                break
        else:
            lines.append({name: members})
    return lines


def _table(board: Leaderboard, groups: Groups, addresses: Addresses) -> str:
    columns = [column for members in groups.values() for column in members]
    rows = [*board.arms, *board.references]
    spans = {c.id: domain(rows, c) for c in columns if any(c.id in row.cells for row in rows)}
    heads = "".join(_head(column) for column in columns)
    arms = "".join(
        _line(row, columns, spans, colour(i), addresses, len(board.arms) > 1)
        for i, row in enumerate(board.arms)
        if any(column.id in row.cells for column in columns)
    )
    shown = [row for row in board.references if any(column.id in row.cells for column in columns)]
    beside = "".join(_line(row, columns, spans, None, addresses) for row in shown)
    floor = ""
    if beside:
        label = f'<th colspan="{len(columns) + 1}" scope="colgroup">beside, not ranked</th>'
        floor = f'<tbody class="references"><tr class="part">{label}</tr>{beside}</tbody>'
    first = f'<th scope="col" aria-sort="none" data-best="name">{_button("model", "by name")}</th>'
    region = f'class="scroll" tabindex="0" role="region" aria-label="{escape(", ".join(groups))}"'
    return (
        f'<figure class="board"><div {region}><table><thead>{_group_heads(groups)}<tr>{first}{heads}</tr></thead>'
        f'<tbody class="arms">{arms}</tbody>{floor}</table></div></figure>'
    )


def _group_heads(groups: Groups) -> str:
    """A line of the groups' names over their columns; a name that the columns repeat is left out."""
    cells, told = [], False
    for name, members in groups.items():
        repeated = all(words.bare(column).startswith(name) for column in members)
        told = told or not repeated
        text = "" if repeated else breakable(name)
        cells.append(f'<th colspan="{len(members)}" scope="colgroup">{text}</th>')
    return f'<tr class="groups"><td></td>{"".join(cells)}</tr>' if told else ""


def _head(column: Column) -> str:
    """A heading that sorts its column, with what parts it from others of its name."""
    about = escape(_DIRECTIONS[column.direction])
    way = f'<span class="way" aria-label="{about}">{column.arrow}</span>'
    small = "".join(f"<small>{breakable(text)}</small>" for text in words.apart(column))
    label = f"{breakable(words.bare(column))}{escape(words.unit(column))} {way}"
    return (
        f'<th scope="col" aria-sort="none" data-best="{column.direction}"{tags(column)}>'
        f"{_button(label, about)}{small}</th>"
    )


def _button(label: str, about: str) -> str:
    mark = '<span class="sorted" aria-hidden="true"></span>'
    return f'<button type="button" title="{about}">{label}{mark}</button>'


def _line(
    row: Row,
    columns: Sequence[Column],
    spans: Spans,
    tint: str | None,
    addresses: Addresses,
    ranks: bool = False,
) -> str:
    cells = "".join(_cell(row.cells.get(c.id), c, spans.get(c.id), tint, ranks) for c in columns)
    link = f'<a href="#model={addresses[row.name, row.kind]}">{breakable(row.name)}</a>'
    name = f'<span class="arm">{dot(tint)}{link}</span>'
    seeds = f"<small>{words.seeds(row)}</small>" if words.seeds(row) else ""
    return f'<tr><th scope="row" data-value="{escape(row.name)}">{name}{seeds}</th>{cells}</tr>'


def _cell(
    cell: Cell | None, column: Column, span: tuple[float, float] | None, tint: str | None, ranks: bool
) -> str:
    if cell is None or span is None:
        return '<td class="none" data-value="">–</td>'
    best = " best" if ranks and cell.rank == 1 else "" if column.comparable else " apart"
    about = "\n".join(escape(said) for said in words.explain(cell, column))
    versus = ""
    if cell.versus_first is not None:
        text = escape(words.compared_to_first(cell, column))
        versus = f'<span class="versus {cell.versus_first.verdict}">{text}</span>'
    thin = ranks and cell.n_clips is not None and (cell.partial or cell.coverage < 1)
    covered = f'<span class="covered">{words.coverage(cell)}</span>' if thin else ""
    order = cell.rank if column.direction == "closer_to_reference" else cell.value
    value = "" if order is None else repr(order)
    return (
        f'<td data-value="{value}"><div class="cell" tabindex="0" data-tip="{about}">'
        f'<span class="value{best}">{words.number(cell.value, column)}{words.partial(cell)}</span>{covered}'
        f"{whisker(cell, tint or 'currentColor', span)}{versus}</div></td>"
    )
