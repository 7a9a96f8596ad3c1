"""Filters of the page: by benchmark and by variant, kept in the page's address."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ovi_eval.report import words
from ovi_eval.table import Column

if TYPE_CHECKING:
    from ovi_eval.board import Leaderboard


def tags(column: Column) -> str:
    """The attributes by which the page's script knows what a column is of."""
    benchmark, variant = escape(column.benchmark, quote=True), escape(column.variant, quote=True)
    return f' data-benchmark="{benchmark}" data-variant="{variant}"'


def bar(board: Leaderboard) -> str:
    """HTML of the filters; empty where there is nothing to choose between."""
    selects = []
    measured = {column.benchmark for column in board.columns}
    benchmarks = list(dict.fromkeys([*sorted(measured), *(table.benchmark for table in board.published)]))
    if len(benchmarks) > 1:
        options = [(name, name) for name in benchmarks if name]
        selects.append(_select("benchmark", "all benchmarks", options))
    variants: dict[str, list[str]] = {}
    for column in board.columns:
        if column.variant and words.bare(column) not in variants.setdefault(column.variant, []):
            variants[column.variant].append(words.bare(column))
    if len(variants) > 1:
        options = [(name, f"{name} ({_some(keys)})") for name, keys in variants.items()]
        selects.append(_select("variant", "all variants", options))
    if not selects:
        return ""
    return (
        f'<form class="filters" aria-label="Filters">{"".join(selects)}'
        '<button type="reset" hidden>Show all</button><p class="note" role="status"></p></form>'
    )


def _select(name: str, everything: str, options: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f'<option value="{escape(value, quote=True)}">{escape(text)}</option>' for value, text in options
    )
    items = f'<option value="">{everything}</option>{items}'
    return f'<label>{name}<select name="{name}" autocomplete="off">{items}</select></label>'


def _some(keys: Sequence[str], most: int = 3) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
