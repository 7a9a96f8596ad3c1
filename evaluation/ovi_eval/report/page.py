"""leaderboard.html: one file that needs no network and no server.

Whatever comes from files (names, captions, reasons, provenance) is escaped; the page's own policy forbids
it to fetch anything at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ovi_eval.claims import Finding
from ovi_eval.report import published, words
from ovi_eval.report.clips import clips_section
from ovi_eval.report.palette import breakable, colour
from ovi_eval.report.panels import domain, panel, reference_key, whisker
from ovi_eval.table import Cell, Column, Row

if TYPE_CHECKING:
    from ovi_eval.board import Leaderboard

_DIRECTIONS = {
    "higher": "higher is better",
    "lower": "lower is better",
    "closer_to_reference": "best near the first reference",
}


def page(board: Leaderboard, step: Callable[[int, int], None] = lambda done, total: None) -> str:
    """The whole page. `step` is told how many clips of how many have been drawn."""
    clips = clips_section(board, step)
    slots = {
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "title": escape(board.title),
        "message": f'<p class="message">{escape(board.message)}</p>' if board.message else "",
        "facts": _facts(board),
        "findings": _findings(board.findings),
        "problems": _problems(board.problems),
        "tables": "".join(_table(board, name, columns) for name, columns in _in_lines(board)),
        "first": escape(board.first),
        "key": reference_key(board.references),
        "panels": "".join(_panel(board, column) for column in board.columns),
        "clips": clips or '<p class="note">No run has clips on disk.</p>',
        "published": published.section(board.published),
        "provenance": _provenance(board),
    }
    # One pass, so that text from a file which looks like a slot is left alone.
    return re.sub(r"@@(\w+)@@", lambda match: slots[match.group(1)], _asset("template.html"))


def _asset(name: str) -> str:
    return files("ovi_eval.report").joinpath(name).read_text(encoding="utf-8")


def _facts(board: Leaderboard) -> str:
    counts = sorted({len([seed for seed in row.seeds if seed is not None]) for row in board.arms})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    clips = sorted({run.n_clips for row in board.arms for run in row.runs})
    shown = [
        f"{len(board.arms)} {'arm' if len(board.arms) == 1 else 'arms'}",
        f"{seeds} {'seed' if seeds == '1' else 'seeds'} each",
        f"{' or '.join(str(n) for n in clips)} clips a run",
        board.created[:10],
    ]
    return "".join(f"<li>{escape(text)}</li>" for text in shown)


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


# Pixels between the margins of a wide screen, less what stands between two tables.
_PAGE_WIDE = 1126


def _in_lines(board: Leaderboard) -> list[tuple[str, list[Column]]]:
    """The metric groups in order, except that one which fits beside an earlier one moves up to it."""
    arm = 48 + 7.3 * max(len(row.name) for row in [*board.arms, *board.references])
    lines: list[tuple[float, list[tuple[str, list[Column]]]]] = []
    for name, columns in board.groups().items():
        wide = arm + sum(max(136.0, 38 + 7.3 * len(words.short(column))) for column in columns)
        for number, (used, members) in enumerate(lines):
            if used + wide <= _PAGE_WIDE:
                lines[number] = (used + wide, [*members, (name, columns)])
                break
        else:
            lines.append((wide, [(name, columns)]))
    return [member for _, members in lines for member in members]


def _table(board: Leaderboard, name: str, columns: Sequence[Column]) -> str:
    rows = [*board.arms, *board.references]
    spans = {c.id: domain(rows, c) for c in columns if any(c.id in row.cells for row in rows)}
    heads = []
    for column in columns:
        about = escape(_DIRECTIONS[column.direction], quote=True)
        way = f'<span class="way" aria-label="{about}">{column.arrow}</span>'
        title = breakable(words.short(column)) + escape(words.unit(column))
        heads.append(_heading(f"{title} {way}", column.direction, about))
    arms = "".join(_line(row, columns, spans, colour(i)) for i, row in enumerate(board.arms))
    shown = [row for row in board.references if any(column.id in row.cells for column in columns)]
    beside = "".join(_line(row, columns, spans, None) for row in shown)
    floor = ""
    if beside:
        label = f'<th colspan="{len(columns) + 1}" scope="colgroup">beside, not ranked</th>'
        floor = f'<tbody class="references"><tr class="part">{label}</tr>{beside}</tbody>'
    first = _heading("arm", "name", "by name")
    region = f'class="scroll" tabindex="0" role="region" aria-label="{escape(name, quote=True)}"'
    return (
        f'<figure class="board"><figcaption>{escape(name)}</figcaption><div {region}><table>'
        f"<thead><tr>{first}{''.join(heads)}</tr></thead>"
        f'<tbody class="arms">{arms}</tbody>{floor}</table></div></figure>'
    )


def _heading(label: str, best: str, about: str) -> str:
    """A heading that sorts its column: `label` is markup, `best` says which way is first."""
    mark = '<span class="sorted" aria-hidden="true"></span>'
    button = f'<button type="button" title="{about}">{label}{mark}</button>'
    return f'<th scope="col" aria-sort="none" data-best="{best}">{button}</th>'


Spans = Mapping[str, tuple[float, float]]


def _line(row: Row, columns: Sequence[Column], spans: Spans, tint: str | None) -> str:
    dot = f'<i class="dot" style="background:{tint}"></i>' if tint else '<i class="dot real"></i>'
    cells = "".join(_cell(row.cells.get(c.id), c, spans.get(c.id), tint) for c in columns)
    name = f'<span class="arm">{dot}{breakable(row.name)}</span>'
    seeds = f"<small>{words.seeds(row)}</small>" if words.seeds(row) else ""
    return f'<tr><th scope="row" data-value="{escape(row.name, quote=True)}">{name}{seeds}</th>{cells}</tr>'


def _cell(cell: Cell | None, column: Column, span: tuple[float, float] | None, tint: str | None) -> str:
    if cell is None or span is None:
        return '<td class="none" data-value="">–</td>'
    best = " best" if cell.rank == 1 else ""
    about = escape("\n".join(words.explain(cell, column)), quote=True)
    versus = ""
    if cell.versus_first is not None:
        text = escape(words.compared_to_first(cell, column))
        versus = f'<span class="versus {cell.versus_first.verdict}">{text}</span>'
    order = cell.rank if column.direction == "closer_to_reference" else cell.value
    value = "" if order is None else repr(order)
    return (
        f'<td data-value="{value}"><div class="cell" tabindex="0" data-tip="{about}">'
        f'<span class="value{best}">{words.number(cell.value, column)}</span>'
        f"{whisker(cell, tint or 'currentColor', span)}{versus}</div></td>"
    )


def _panel(board: Leaderboard, column: Column) -> str:
    head = f"<figcaption>{breakable(column.id)} {column.arrow}{escape(words.unit(column))}</figcaption>"
    return f'<figure class="plot">{head}{panel(board.arms, board.references, column)}</figure>'


def _provenance(board: Leaderboard) -> str:
    """What all runs share once, then each run with what is its own."""
    runs = [(row, run) for row in [*board.arms, *board.references] for run in row.runs]
    flat = [dict(_flat(run.provenance)) for _, run in runs]
    keys = list(dict.fromkeys(key for facts in flat for key in facts))
    shared = {key: flat[0].get(key) for key in keys if len({facts.get(key) for facts in flat}) == 1}
    terms = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in shared.items())
    own = [key for key in keys if key not in shared]
    titles = ["run", "seed", "configuration", "clips", "scored", *own]
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in titles)
    lines = []
    for (row, run), facts in zip(runs, flat, strict=True):
        seed = "–" if run.seed is None else str(run.seed)
        cells = [
            seed,
            run.config_hash or "–",
            str(run.n_clips),
            run.created,
            *(facts.get(k, "–") for k in own),
        ]
        data = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{escape(row.name)}</th>{data}</tr>')
        wide = f'colspan="{len(titles)}" class="note"'
        lines += [f"<tr><td {wide}>{escape(note)}</td></tr>" for note in run.notes]
    made = [c for c in board.columns if c.version]
    versions = ", ".join(f"{c.key} v{c.version}" + (f" ({c.variant})" if c.variant else "") for c in made)
    return (
        f"<dl>{terms}<dt>metrics</dt><dd>{escape(versions)}</dd></dl>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Runs"><table class="runs">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as dotted names with text."""
    found: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return found
