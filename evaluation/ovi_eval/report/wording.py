"""Numbers, names and foreign text as all ways of showing results word them.

Names, captions, reasons and notes are from files that anybody may have written: all of them go through
`ovi_eval.common.shown` on their way to a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovi_eval.common.number_format import digits_for, format_number, format_p
from ovi_eval.common.shown import shown
from ovi_eval.ranking.claimed_trends import Power
from ovi_eval.ranking.claims import Finding
from ovi_eval.ranking.columns import Column
from ovi_eval.ranking.table import Cell, Row
from ovi_eval.stats.intervals import Interval

LONGEST = 2000
"""Characters; a caption of more is cut."""
NOT_COMPARABLE = "not comparable: of a part of the clips, so it is shown and never ranked"
NO_BENCHMARK = "no benchmark named"
DIRECTIONS = {
    "higher": "higher is better",
    "lower": "lower is better",
    "closer_to_reference": "best near the first reference",
}
KINDS = {"supported": "supported", "not_supported": "not shown by the data", "unknown": "not known yet"}


def in_markdown(text: Any, limit: int = LONGEST) -> str:
    """Text for a paragraph or a table of Markdown."""
    return shown(text, limit, to="markdown")


def line(text: Any, limit: int = LONGEST) -> str:
    """Text for `rich.text.Text`, which reads no markup, for the figure, or, before it is escaped, for the page."""
    return shown(text, limit)


def number(value: float, column: Column | None = None, like: float | None = None) -> str:
    """A value as shown, with the digits of the value `like` (its mean), so that a cell reads evenly.

    One decimal for milliseconds, where thousandths mean nothing.
    """
    size = value if like is None else like
    digits = 1 if column is not None and column.unit == "ms" and abs(size) < 1000 else None
    return format_number(value, digits_for(size) if digits is None else digits)


def clip_number(value: float, column: Column) -> str:
    """A clip's value: whole milliseconds, else two decimals where they mean something."""
    return format_number(value, 0 if column.unit == "ms" or abs(value) >= 100 else 2)


def signed(value: float, column: Column | None = None, like: float | None = None) -> str:
    """A difference, always with its sign."""
    text = number(value, column, like)
    return text if text.startswith("−") else f"+{text}"


def bounds(interval: Interval | None, column: Column | None = None, like: float | None = None) -> str:
    """`[0.738, 0.966]`, empty where there is none."""
    if interval is None:
        return ""
    return f"[{number(interval.low, column, like)}, {number(interval.high, column, like)}]"


def half_width(cell: Cell, column: Column) -> str:
    """` ±0.114`: the larger side of the interval, empty where there is none."""
    if cell.interval is None:
        return ""
    side = max(cell.interval.high - cell.value, cell.value - cell.interval.low)
    return f" ±{number(side, column, cell.value)}"


def compared_to_first(cell: Cell, column: Column) -> str:
    """`−0.641, p < 0.001`: the difference to the first arm with the adjusted p value where there is one; empty for the
    first.
    """
    versus = cell.versus_first
    if versus is None:
        return ""
    p = "" if versus.p_adjusted is None else f", {format_p(versus.p_adjusted)}"
    return f"{signed(versus.difference.value, column, cell.value)}{p}"


def seeds(row: Row) -> str:
    """`3 seeds`; empty for a run without any, as a reference, which was not trained."""
    counted = len([seed for seed in row.seeds if seed is not None])
    return f"{counted} {'seed' if counted == 1 else 'seeds'}" if counted else ""


def seed_counts(rows: Sequence[Row]) -> str:
    """`3 seeds`, or `3 or 5 seeds` of rows that have different numbers; empty where none has more than one."""
    counts = sorted({len(row.seeds) for row in rows} - {0, 1})
    return f"{' or '.join(map(str, counts))} seeds" if counts else ""


def seed_count(row: Row) -> str:
    """`3`, or a dash for a run without seeds."""
    return seeds(row).split(" ")[0] or "–"


def raw_name(column: Column) -> str:
    """The metric's name in results and on the command line; of a loss with `loss/` before it."""
    return column.id if column.kind == "loss" else column.key


def titled(column: Column) -> str:
    """The metric in words where it has a title, else its raw name."""
    return column.title or raw_name(column)


def metric_name(column: Column) -> str:
    """The metric's name without the group it stands under, nor its variant: ball/onset_f1 -> onset_f1."""
    return column.key.split("/", 1)[-1]


def column_name(column: Column) -> str:
    """The column's name without the group it stands under: ball/onset_f1 v2 -> onset_f1 v2."""
    return column.id.split("/", 1)[-1]


def distinctions(column: Column) -> list[str]:
    """What distinguishes a column from others of its metric: variant, version among several, comparability."""
    found = [column.variant] if column.variant else []
    if f" v{column.version}" in column.id.removeprefix(column.key) and column.version:
        found.append(f"version {column.version}")
    return found if column.comparable else [*found, "not comparable"]


def power_lines(finding: Finding) -> list[str]:
    """What the seeds of each of a claim's comparisons could have shown, a sentence each."""
    several = len(finding.evidence) > 1
    return [
        (f"{e['arm']} against {e['versus']}: " if several and "arm" in e else "")
        + Power(**e["power"]).sentence()
        for e in finding.evidence
        if e["power"] is not None
    ]


def percent(part: float) -> str:
    """`97 %`; 100 only where nothing is missing, 0 only where nothing is there."""
    text = f"{100 * part:.0f} %"
    if text == "100 %" and part < 1:
        return "over 99 %"
    return "under 1 %" if text == "0 %" and part > 0 else text


PARTIAL = (
    "† of far fewer clips than the others (coverage or clips below 9 tenths of the most in the column), "
    "so it is shown and not ranked"
)


BEYOND = (
    "‡ beyond what the reference clips reach in this column: past the better end of their 95 % intervals, or past "
    "their values where they have none, which may be chance. It need not mean better than real clips; a metric may "
    "favour what they seldom are, so look at the clips first"
)


def marks(cell: Cell) -> str:
    """† of a value that is not ranked because it rests on far fewer clips than the others, ‡ of one beyond the
    references.
    """
    return "†" * cell.partial + "‡" * cell.beyond_references


def legend(rows: Sequence[Row]) -> list[str]:
    """What the marks on these rows' values mean, a sentence each."""
    cells = [cell for row in rows for cell in row.cells.values()]
    found = (PARTIAL, any(cell.partial for cell in cells)), (BEYOND, any(c.beyond_references for c in cells))
    return [f"{text}." for text, there in found if there]


def coverage(cell: Cell) -> str:
    """`coverage 97 %`, with the number of clips where the value is partial; empty for a loss, which has none."""
    if cell.n_clips is None:
        return ""
    return f"coverage {percent(cell.coverage)}" + (f", n {cell.n_clips}" if cell.partial else "")


def unit(column: Column, name: str | None = None) -> str:
    """` (ms)`, empty where there is none or the name beside it (by default the raw one) ends in it."""
    name = raw_name(column) if name is None else name
    return f" ({column.unit})" if column.unit and not name.endswith(f"_{column.unit}") else ""


def explain(cell: Cell, column: Column) -> list[str]:
    """Everything behind a cell in words, a line each: n, interval, test, both p values."""
    value = number(cell.value, column)
    lines = [f"{value}, one value without an interval"]
    if cell.interval is not None:
        basis = f"{cell.interval.method}, n = {cell.interval.n}"
        lines = [f"mean {value}, 95 % {bounds(cell.interval, column, cell.value)} ({basis})"]
    if cell.sd is not None:
        lines.append(f"sd over seeds {number(cell.sd, column, cell.value)}")
    if cell.over_clips is not None and cell.over_clips != cell.interval:
        lines.append(f"95 % {bounds(cell.over_clips, column, cell.value)} ({cell.over_clips.method})")
    if cell.n_clips is not None:
        differ = f" ({cell.n_distinct} that differ)" if cell.n_distinct not in (None, cell.n_clips) else ""
        lines.append(f"{cell.n_clips} clips a run{differ}, coverage {percent(cell.coverage)}")
    if cell.partial:
        lines.append(PARTIAL)
    if cell.beyond_references:
        lines.append(BEYOND)
    versus = cell.versus_first
    if versus is not None:
        d = versus.difference
        apart = f"{signed(d.value, column, cell.value)} against {versus.arm}"
        lines.append(f"{apart} {bounds(d.interval, column, cell.value)}".rstrip())
        counted = f"n = {d.test.n}" + (f", {d.n_seeds} seeds in common" if d.n_seeds else "")
        lines.append(f"{d.test.name} ({counted}): {format_p(d.test.p)}, Holm {format_p(versus.p_adjusted)}")
    if column.version:
        lines.append(f"metric version {column.version}" + (f", {column.variant}" if column.variant else ""))
    return lines
