"""Filters of the page: by benchmark, by variant and by metric, kept in the page's address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovi_eval.ranking.table import Column
from ovi_eval.report import words
from ovi_eval.report.text import escape

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard


# More metrics than this can be chosen from: fewer are seen at once.
FEW = 6


def tags(column: Column) -> str:
    """The attributes by which the page's script knows what a column is of."""
    told = {
        "benchmark": column.benchmark,
        "variant": column.variant,
        "metric": column.key,
        "group": column.group,
    }
    return "".join(f' data-{name}="{escape(value)}"' for name, value in told.items())


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
    if len({column.key for column in board.columns}) > FEW:
        selects.append(_metrics(board))
    if not selects:
        return ""
    return (
        f'<form class="filters" aria-label="Filters">{"".join(selects)}'
        '<button type="reset" hidden>Show all</button><p class="note" role="status"></p></form>'
    )


def _metrics(board: Leaderboard) -> str:
    """Metrics by their group: a group as a whole is its name with a star, as FVD's variants are metrics each."""
    groups: dict[str, list[str]] = {}
    for column in board.columns:
        if column.key not in groups.setdefault(column.group, []):
            groups[column.group].append(column.key)
    items = ""
    for group, keys in groups.items():
        own = [(f"{group}*", f"{group}: all {len(keys)}")] if len(keys) > 1 else []
        listed = _options([*own, *((key, key) for key in keys)])
        items += f'<optgroup label="{escape(group)}">{listed}</optgroup>' if own else listed
    return _labelled("metric", "all metrics", items)


def _select(name: str, everything: str, options: Sequence[tuple[str, str]]) -> str:
    return _labelled(name, everything, _options(options))


def _options(options: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<option value="{escape(v)}">{escape(text)}</option>' for v, text in options)


def _labelled(name: str, everything: str, items: str) -> str:
    items = f'<option value="">{everything}</option>{items}'
    return f'<label>{name}<select name="{name}" autocomplete="off">{items}</select></label>'


def _some(keys: Sequence[str], most: int = 3) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
