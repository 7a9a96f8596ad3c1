"""Two models side by side, on the terminal and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ovi_eval.common.number_format import format_p
from ovi_eval.report import wording
from ovi_eval.report.markdown import table as markdown_table
from ovi_eval.report.terminal import narrow_console, warn
from ovi_eval.report.wording import in_markdown, line

if TYPE_CHECKING:
    from ovi_eval.ranking.comparison import Comparison, Entry

VERDICTS = {
    "a_better": ("A better", "green"),
    "b_better": ("B better", "red"),
    "differ": ("apart", "yellow"),
    "no_difference": ("no difference shown", "dim"),
    "not_tested": ("not tested", "dim"),
}
"""Words and style of each verdict."""


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Prints who is compared, a table of the metrics, how they were tested, and what was not compared."""
    console = narrow_console(console)
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        console.print(Text.assemble((f"{letter}  ", "bold"), line(f"{side.label}: {', '.join(side.files)}")))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("metric", overflow="fold", max_width=34)
    for head in ("A", "B", "A − B, 95 %", "p", "p Holm"):
        table.add_column(head, justify="right")
    table.add_column("verdict")
    for entry in comparison.entries:
        column, found = entry.column, entry.difference
        title = column.title or column.id
        title = f"{title} {column.arrow}{wording.unit(column, title)}"
        name = line(title) + (f"\n{line(column.id)}" if column.title else "")
        interval = wording.bounds(found.interval, column, found.value)
        table.add_row(
            Text.assemble(name, "\n", (rests_on(entry), "dim")),
            wording.number(entry.a, column),
            wording.number(entry.b, column),
            Text.assemble(wording.signed(found.value, column), "\n", (interval, "dim")),
            p_value(found.test.p),
            p_value(entry.p_adjusted),
            Text(*VERDICTS[entry.verdict]),
        )
    console.print(table)
    for said in [*tests(comparison), *notes(comparison)]:
        console.print(Text(line(said), style="dim"))
    warn(console, (f"{refusal.metric}: {refusal.reason}" for refusal in comparison.refusals))


def markdown(comparison: Comparison) -> str:
    """The same as a Markdown section, each test by name."""
    sides = [
        f"- **{letter}** {in_markdown(side.label)}: {in_markdown(', '.join(side.files))}"
        for letter, side in (("A", comparison.a), ("B", comparison.b))
    ]
    heads = ("metric", "A", "B", "A − B", "95 %", "p", "p Holm", "test", "rests on", "verdict")
    rows = []
    for entry in comparison.entries:
        column, found = entry.column, entry.difference
        cells = (
            in_markdown(column.title)
            + ("<br>" if column.title else "")
            + in_markdown(f"{column.id} {column.arrow}{wording.unit(column)}"),
            wording.number(entry.a, column),
            wording.number(entry.b, column),
            wording.signed(found.value, column),
            wording.bounds(found.interval, column, found.value) or "–",
            in_markdown(p_value(found.test.p)),
            in_markdown(p_value(entry.p_adjusted)),
            "–" if found.test.p is None else found.test.name,
            rests_on(entry),
            VERDICTS[entry.verdict][0],
        )
        rows.append(cells)
    parts = [
        f"# {in_markdown(comparison.a.label)} and {in_markdown(comparison.b.label)}",
        "\n".join(sides),
        markdown_table(heads, "|---|" + "--:|" * 6 + "---|" * 3, rows),
        "\n".join(f"- {in_markdown(said)}" for said in [*tests(comparison), *notes(comparison)]),
    ]
    if comparison.refusals:
        refused = (f"- {in_markdown(r.metric)}: {in_markdown(r.reason)}" for r in comparison.refusals)
        parts.append("## Not compared\n\n" + "\n".join(refused))
    return "\n\n".join(parts) + "\n"


def rests_on(entry: Entry) -> str:
    """`40 clips, 3 seeds`: what the difference is taken over."""
    found = entry.difference
    seeds = f"{found.n_seeds} seeds" if found.n_seeds > 1 else ""
    if found.n_clips is not None:
        return ", ".join(filter(None, [f"{found.n_clips} clips", seeds]))
    if found.n_seeds == 0 and found.interval is not None:
        return "two intervals" if "independent" in found.interval.method else f"{found.test.n} seeds"
    return seeds or "one value each"


def p_value(p: float | None) -> str:
    """`0.031`, `< 0.001`, or a dash."""
    return "–" if p is None else format_p(p).removeprefix("p = ").removeprefix("p ")


def tests(comparison: Comparison) -> list[str]:
    """Which test and which interval belong to what the metrics rest on, each once."""
    found: dict[str, None] = {}
    for entry in comparison.entries:
        difference = entry.difference
        if difference.test.p is not None and difference.interval is not None:
            found[f"{rests_on(entry)}: {difference.test.name}; interval: {difference.interval.method}"] = None
    return [
        *found,
        "p Holm is adjusted over all metrics here; a verdict needs it below 0.05 and an interval without zero",
    ]


def notes(comparison: Comparison) -> list[str]:
    """What a reader should know of single metrics, the metrics of one note together, and of all."""
    about: dict[str, list[str]] = {}
    for entry in comparison.entries:
        for note in entry.notes:
            about.setdefault(note, []).append(entry.column.id)
    return [f"{', '.join(names)}: {note}" for note, names in about.items()] + list(comparison.notes)
