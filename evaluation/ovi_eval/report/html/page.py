"""leaderboard.html: one file that needs no network and no server.

Whatever comes from files (names, captions, reasons, provenance) is escaped; the page's own policy forbids
it to fetch anything at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ovi_eval.ranking.claims import Finding
from ovi_eval.ranking.table import Column
from ovi_eval.report import published, words
from ovi_eval.report.html import filters, models
from ovi_eval.report.html.boards import boards
from ovi_eval.report.html.clips import clips_section
from ovi_eval.report.html.panels import panel, reference_key
from ovi_eval.report.html.provenance import runs_of
from ovi_eval.report.html.shelf import Shelf
from ovi_eval.report.palette import breakable
from ovi_eval.report.text import escape

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

# Of base64 text: what all clips may take, those of the prompts and those of the models' own pages.
BUDGET = 11_000_000


def page(board: Leaderboard, step: Callable[[int, int], None] = lambda done, total: None) -> str:
    """The whole page. `step` is told how many of how many clips, and then models, have been drawn."""
    shelf = Shelf(BUDGET)
    clips = clips_section(board, shelf, step)
    pages = models.pages(board, shelf, step)
    addresses = models.addresses(board)
    slots = {
        "style": _asset("page.css"),
        "script": _asset("page.js") + _asset("players.js"),
        "title": escape(board.title),
        "message": f'<p class="message">{escape(board.message)}</p>' if board.message else "",
        "facts": _facts(board),
        "findings": _findings(board.findings),
        "problems": _problems(board.problems),
        "filters": filters.bar(board),
        "about": _about(board),
        "tables": boards(board, addresses),
        "key": reference_key(board.references),
        "panels": _panels(board),
        "clips": (clips or '<p class="note">No run has clips on disk.</p>') + _clip_notes(board),
        "published": published.section(board.published),
        "provenance": runs_of([*board.arms, *board.references], {"metrics": _versions(board)}),
        "models": pages,
        "shelf": shelf.html(),
    }
    # One pass, so that text from a file which looks like a slot is left alone.
    return re.sub(r"@@(\w+)@@", lambda match: slots[match.group(1)], _asset("template.html"))


def _clip_notes(board: Leaderboard) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in board.clip_notes())


def _asset(name: str) -> str:
    return files("ovi_eval.report.html").joinpath(name).read_text(encoding="utf-8")


def _facts(board: Leaderboard) -> str:
    counts = sorted({len([seed for seed in row.seeds if seed is not None]) for row in board.arms})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    clips = sorted({run.n_clips for row in board.arms for run in row.runs})
    benchmarks = {column.benchmark for column in board.columns}
    shown = [
        f"{len(board.arms)} {'model' if len(board.arms) == 1 else 'models'}",
        f"{seeds} {'seed' if seeds == '1' else 'seeds'} each" if counts != [0] else "",
        f"{' or '.join(str(n) for n in clips)} clips a run",
        *(benchmarks if len(benchmarks) == 1 else ()),
        board.created[:10],
    ]
    return "".join(f"<li>{escape(text)}</li>" for text in shown if text)


def _about(board: Leaderboard) -> str:
    """How to read the tables, for what is in them."""
    cells = [cell for row in board.arms for cell in row.cells.values()]
    said = ["The bar is the 95 % interval."]
    if any(len(cell.by_seed) > 1 for cell in cells):
        said = ["Mean over seeds; the bar is the 95 % interval, the rings are the seeds."]
    if any(cell.versus_first for cell in cells):
        first = f"<b>{escape(board.first)}</b>"
        said.append(f"Below it the paired difference to {first} with its p value, adjusted by Holm.")
    said.append(
        "Point at, tap or tab to a number for what it rests on; a heading sorts, a name opens its page."
    )
    if len(board.arms) > 1 and any(cell.rank == 1 for cell in cells):
        said.append("The best is in bold type.")
    if words.any_partial(board.arms):
        said.append(f"{words.PARTIAL}.")
    if not all(column.comparable for column in board.columns):
        said.append(
            "A column that is not comparable holds values of a part of the clips and is never ranked."
        )
    return " ".join(said)


def _findings(findings: Sequence[Finding]) -> str:
    items = []
    for finding in findings:
        rows = "".join(f"<li>{escape(_evidence(e))}</li>" for e in finding.evidence)
        evidence = f"<details><summary>evidence</summary><ul>{rows}</ul></details>" if rows else ""
        items.append(
            f'<li class="finding {finding.outcome}"><span class="pill">{words.KINDS[finding.outcome]}</span>'
            f"<p>{escape(finding.text)}</p>{evidence}</li>"
        )
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""


def _evidence(e: Mapping[str, Any]) -> str:
    between = "no interval" if e["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*e["interval"])
    p = "" if e["p"] is None else f", p = {e['p']:.2g}"
    adjusted = "" if e["p_adjusted"] is None else f", Holm p = {e['p_adjusted']:.2g}"
    return (
        f"{e['metric']}: {e['arm']} {e['a']:.3f}, {e['versus']} {e['b']:.3f}; "
        f"difference {e['difference']:+.3f} {between}; {e['test']}, n = {e['n']}{p}{adjusted}"
    )


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f'<aside class="problems"><h2>Not in these numbers</h2><ul>{items}</ul></aside>'


def _panels(board: Leaderboard) -> str:
    """A plot of every metric in which anybody has a value, those of a benchmark together."""
    rows = [*board.arms, *board.references]
    drawn = [column for column in board.columns if any(column.id in row.cells for row in rows)]
    benchmarks = list(dict.fromkeys(column.benchmark for column in drawn))
    parts = []
    for benchmark in benchmarks:
        title = f"<h3>{escape(benchmark or words.NO_BENCHMARK)}</h3>" if len(benchmarks) > 1 else ""
        plots = "".join(_panel(board, column) for column in drawn if column.benchmark == benchmark)
        parts.append(f'<div class="benchmark">{title}<div class="plots">{plots}</div></div>')
    return "".join(parts)


def _panel(board: Leaderboard, column: Column) -> str:
    told = "".join(f"<small>{breakable(text)}</small>" for text in words.apart(column))
    name = column.key if column.kind != "loss" else column.id
    head = f"<figcaption>{breakable(name)} {column.arrow}{escape(words.unit(column))}{told}</figcaption>"
    drawn = panel(board.arms, board.references, column)
    return f'<figure class="plot"{filters.tags(column)}>{head}{drawn}</figure>'


def _versions(board: Leaderboard) -> str:
    made = [c for c in board.columns if c.version]
    told = [f"{c.key} v{c.version}" + (f" ({c.variant})" if c.variant else "") for c in made]
    return ", ".join(dict.fromkeys(told))
