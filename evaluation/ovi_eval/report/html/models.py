"""A page of its own for every model, inside the one file: its values with all that stands behind them, its worst
and best clips by every metric, the clips without a value, and how its runs were made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ovi_eval.ranking.table import Column, Making, Row
from ovi_eval.report import words
from ovi_eval.report.html.extremes import Extremes, Ranked, extremes, without_value
from ovi_eval.report.html.filters import tags
from ovi_eval.report.html.measures import making_of, measures
from ovi_eval.report.html.players import Strand, clip_number, player, scores, strands_of, tint_of
from ovi_eval.report.html.provenance import runs_of
from ovi_eval.report.html.shelf import AT_ONCE, Shelf, Shown
from ovi_eval.report.palette import breakable, dot
from ovi_eval.report.text import escape
from ovi_eval.results.files import ClipScores

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

# Clips of each end that a metric shows.
COUNT = 2
# Clips without a value that are listed, and how many of them play.
MAX_LACKING, PLAYED = 40, 2

Step = Callable[[int, int], None]


def addresses(board: Leaderboard) -> dict[tuple[str, str], str]:
    """By each row's name and kind the address of its page inside the file: the name, but for characters that
    an address cannot hold.
    """
    found: dict[tuple[str, str], str] = {}
    for row in [*board.arms, *board.references]:
        plain = re.sub(r"[^A-Za-z0-9._~-]+", "-", row.name).strip("-") or "model"
        name, number = plain, 1
        while name in found.values():
            number += 1
            name = f"{plain}-{number}"
        found[row.name, row.kind] = name
    return found


def pages(board: Leaderboard, shelf: Shelf, step: Step = lambda done, total: None) -> str:
    """HTML of all models' pages. Every model may take an equal part of what the shelf has left; what one does
    not need is the others'.
    """
    rows = [*board.arms, *board.references]
    made, named = [], addresses(board)
    for place, row in enumerate(rows):
        share = max(0, shelf.budget - shelf.used) // (len(rows) - place)
        made.append(_page(board, row, named[row.name, row.kind], shelf, shelf.used + share))
        step(place + 1, len(rows))
    return "".join(made)


def _page(board: Leaderboard, row: Row, name: str, shelf: Shelf, limit: int) -> str:
    tint = tint_of(board, row)
    kind = "" if row.kind == "measured" else "<li>reference, not ranked</li>"
    seeds = f"<li>{words.seeds(row)}</li>" if words.seeds(row) else ""
    clips = sorted({run.n_clips for run in row.runs})
    benchmarks = [text for text in dict.fromkeys(run.benchmark for run in row.runs) if text]
    facts = [f"{' or '.join(map(str, clips))} clips a run", ", ".join(benchmarks), row.runs[0].created[:10]]
    listed = kind + seeds + "".join(f"<li>{escape(text)}</li>" for text in facts if text)
    return (
        f'<section class="model" id="model={name}" data-title="{escape(row.name)}" '
        f'aria-labelledby="h-{name}">'
        '<p><a class="back" href="#table">← All models</a></p>'
        f'<h1 id="h-{name}">{dot(tint)}{breakable(row.name)}</h1><ul class="facts">{listed}</ul>'
        f"<h2>Values</h2>{measures(board, row, tint)}"
        f"{_all_clips(board, row, tint, shelf, limit)}"
        f"<h2>Where the numbers come from</h2>{runs_of([row])}</section>"
    )


def _all_clips(board: Leaderboard, row: Row, tint: str | None, shelf: Shelf, limit: int) -> str:
    """Of every benchmark the first run with clips on disk, else the first with values by clip."""
    parts = []
    benchmarks = list(dict.fromkeys(run.benchmark for run in row.runs))
    for place, benchmark in enumerate(benchmarks):
        own = strands_of(row, benchmark, tint, board.clips)
        playable = [found for found in own if found.files]
        scored = [found for found in own if found.run.clips]
        if playable or scored:
            share = max(0, limit - shelf.used) // (len(benchmarks) - place)
            title = benchmark if len(benchmarks) > 1 else ""
            parts.append(_clips(board, (playable or scored)[0], title, shelf, shelf.used + share))
    return "".join(parts)


def _clips(board: Leaderboard, own: Strand, title: str, shelf: Shelf, limit: int) -> str:
    benchmark = own.run.benchmark
    columns = [c for c in board.columns if c.kind == "mean" and _is_of(c, own)]
    among = own.files or None
    found = [
        ends
        for column in columns
        if (ends := extremes(own.run, column, COUNT, _target(board, column), among)) is not None
    ]
    lacking = without_value(own.run)
    shown = _chosen(own, found, lacking, shelf, limit)
    seed = "" if own.run.seed is None else f" of seed {own.run.seed}"
    of = f", among the {len(own.files)} clips on disk" if among and len(own.files) < own.run.n_clips else ""
    lead = f'<p class="lead">By each metric the clips{seed} at its two ends{of}, each with all its own values.</p>'
    body = "".join(_ends(own, ends, columns, shown, opened=place == 0) for place, ends in enumerate(found))
    heading = "Worst and best clips" + (f" · {escape(title)}" if title else "")
    section = f"<h2>{heading}</h2>{lead}{body}" if found else ""
    section += _lacking(own, lacking, columns, shown)
    return f'<div data-benchmark="{escape(benchmark)}">{section}</div>' if section else ""


def _is_of(column: Column, own: Strand) -> bool:
    """Whether the run has values of just this column."""
    metric = own.run.metrics.get(column.key)
    return metric is not None and Making.of(own.run, metric) == making_of(column)


def _target(board: Leaderboard, column: Column) -> float | None:
    return next((row.cells[column.id].value for row in board.references if column.id in row.cells), None)


def _chosen(
    own: Strand, found: Sequence[Extremes], lacking: Sequence[ClipScores], shelf: Shelf, limit: int
) -> dict[str, Shown | str]:
    """What can be shown of the clips by id, taken from the shelf until its limit: of all metrics the very worst
    and best first, then clips without a value, then what comes next.
    """
    first = [pair[0].clip.id for ends in found for pair in (ends.worst, ends.best)]
    rest = [
        ranked.clip.id
        for k in range(1, COUNT)
        for e in found
        for p in (e.worst, e.best)
        for ranked in p[k : k + 1]
    ]
    order = dict.fromkeys([*first, *(clip.id for clip in lacking[:PLAYED]), *rest])
    wanted = [clip for clip in order if clip in own.files]
    shown: dict[str, Shown | str] = {}
    for start in range(0, len(wanted), AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        for clip, looked in zip(part, shelf.look([own.files[clip] for clip in part]), strict=True):
            if shelf.used + shelf.cost(looked) > limit:
                return shown
            shelf.take(looked)
            shown[clip] = looked
    return shown


def _ends(
    own: Strand, ends: Extremes, columns: Sequence[Column], shown: Mapping[str, Shown | str], opened: bool
) -> str:
    column = ends.column
    cards, more = [], []
    for which, members in (("worst", ends.worst), ("best", ends.best)):
        for place, ranked in enumerate(members):
            if place == 0 or ranked.clip.id in shown:
                cards.append(_card(own, ranked, which, column, columns, shown.get(ranked.clip.id)))
            else:
                number = escape(clip_number(ranked.value, column))
                more.append(f"next {which}: {breakable(ranked.clip.id)} {number}")
    low, high = clip_number(ends.worst[0].value, column), clip_number(ends.best[0].value, column)
    span = f'<span class="note">worst {escape(low)}, best {escape(high)} of {ends.of} clips</span>'
    title = f"{breakable(words.bare(column))} {column.arrow}{escape(words.unit(column))}"
    rest = f'<p class="note more">{"; ".join(more)}</p>' if more else ""
    return (
        f'<details class="ends"{tags(column)}{" open" if opened else ""}>'
        f"<summary><b>{title}</b> {span}</summary>"
        f'<div class="cards">{"".join(cards)}</div>{rest}</details>'
    )


def _card(
    own: Strand,
    ranked: Ranked,
    which: str,
    column: Column,
    columns: Sequence[Column],
    shown: Shown | str | None,
) -> str:
    clip = ranked.clip
    number = escape(clip_number(ranked.value, column) + words.unit(column))
    return (
        f'<section class="card"><h3><span class="pill {which}">{which}</span> {number}</h3>'
        f"{_caption(clip)}{_screen(own, clip, shown)}{scores(clip, columns, column)}</section>"
    )


def _caption(clip: ClipScores) -> str:
    said = f"“{escape(clip.caption)}” " if clip.caption else ""
    return f'<p class="caption">{said}<span class="id">{breakable(clip.id)}</span></p>'


def _screen(own: Strand, clip: ClipScores, shown: Shown | str | None) -> str:
    if isinstance(shown, Shown):
        return player(shown, f"{own.title}, {clip.id}")
    if isinstance(shown, str):
        return f'<p class="note">cannot be shown: {escape(shown)}</p>'
    kept = clip.id in own.files
    return f'<p class="note">{"left out to keep this file small" if kept else "no clip on disk"}</p>'


def _lacking(
    own: Strand, lacking: Sequence[ClipScores], columns: Sequence[Column], shown: Mapping[str, Shown | str]
) -> str:
    if not lacking:
        return ""
    cards = [
        f'<section class="card">{_caption(clip)}{_screen(own, clip, shown[clip.id])}{scores(clip, columns)}</section>'
        for clip in lacking[:PLAYED]
        if clip.id in shown
    ]
    played = f'<div class="cards">{"".join(cards)}</div>' if cards else ""
    lines = []
    for clip in lacking[:MAX_LACKING]:
        reasons = {"all": clip.failed} if clip.failed else clip.reasons
        said = "".join(
            f"<li><b>{breakable(metric)}</b> {escape(why)}</li>" for metric, why in reasons.items()
        )
        lines.append(f'<tr><th scope="row">{breakable(clip.id)}</th><td><ul>{said}</ul></td></tr>')
    more = len(lacking) - MAX_LACKING
    note = f'<p class="note">{more} more are in the per-clip file of the run.</p>' if more > 0 else ""
    return (
        f'<h2>Clips without a value</h2><details class="lacking">'
        f"<summary>{len(lacking)} of {own.run.n_clips} clips, with the reasons</summary>{played}"
        '<div class="scroll" tabindex="0" role="region" aria-label="Clips without a value"><table class="reasons">'
        '<thead><tr><th scope="col">clip</th><th scope="col">why</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{note}</details>"
    )
