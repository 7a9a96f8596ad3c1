"""The clips of the page: for each prompt a row, for each arm a clip with its timeline and its own scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ovi_eval.ranking.table import Column, Row
from ovi_eval.report.html.players import Strand, heading, player, scores, strands_of, tint_of
from ovi_eval.report.html.shelf import Shelf, Shown
from ovi_eval.report.text import escape

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

MAX_PROMPTS = 8
# Of base64 text: what the rows of prompts may take of the page.
BUDGET = 6_000_000


def strands(board: Leaderboard, benchmark: str) -> list[Strand]:
    """What the columns of clips of a benchmark come from: real clips first, then the arms, each by its first
    run that has clips. Others have no column.
    """
    found = []
    real = [row for row in board.references if row.name.startswith("real")] or list(board.references)
    for row in real:
        if first := _first(board, row, benchmark):
            found.append(first)
            break
    return found + [first for row in board.arms if (first := _first(board, row, benchmark))]


def _first(board: Leaderboard, row: Row, benchmark: str) -> Strand | None:
    own = strands_of(row, benchmark, tint_of(board, row), board.clips)
    return next((strand for strand in own if strand.files), None)


def prompts(columns: Sequence[Strand], most: int = MAX_PROMPTS) -> list[str]:
    """Clip ids to show: those that most columns have, in order, at most `most`."""
    counts: dict[str, int] = {}
    for column in columns:
        for clip in column.files:
            counts[clip] = counts.get(clip, 0) + 1
    top = max(counts.values(), default=0)
    return [clip for clip in sorted(counts) if counts[clip] == top][:most]


def clips_section(
    board: Leaderboard, shelf: Shelf, step: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """HTML of all prompts, empty where no run has clips. `step` is told how many clips of how many are drawn.

    Prompts that would take more than BUDGET of the shelf are left out, and that is said.
    """
    names = list(dict.fromkeys(run.benchmark for row in board.arms for run in row.runs))
    plan = []
    for name in names:
        columns = strands(board, name)
        chosen = prompts(columns, max(2, MAX_PROMPTS // len(names)))
        plan += [(place, name, clip, columns) for place, clip in enumerate(chosen)]
    # Every benchmark's first prompt before anyone's second, as the page may be full before the last.
    plan.sort(key=lambda entry: entry[0])
    total, done = sum(len(columns) for *_, columns in plan), 0
    metrics = [column for column in board.columns if column.kind == "mean"]
    rows: dict[str, list[str]] = {name: [] for name in names}
    left_out = len(plan)
    for _, benchmark, clip, columns in plan:
        files = [column.files[clip] for column in columns if clip in column.files]
        read = dict(zip(files, shelf.look(files), strict=True))
        looked = [read[column.files[clip]] if clip in column.files else None for column in columns]
        done += len(columns)
        step(done, total)
        if shelf.used + sum(shelf.cost(shown) for shown in looked if shown) > BUDGET:
            break
        for shown in looked:
            if shown:
                shelf.take(shown)
        cards = [_card(column, clip, shown, metrics) for column, shown in zip(columns, looked, strict=True)]
        rows[benchmark].append(_row(benchmark, len(names) > 1, clip, columns, cards))
        left_out -= 1
    counted = "1 more prompt is" if left_out == 1 else f"{left_out} more prompts are"
    note = f'<p class="note">{counted} left out to keep this file small.</p>' if left_out else ""
    return "".join(row for own in rows.values() for row in own) + note


def _row(benchmark: str, named: bool, clip: str, columns: Sequence[Strand], cards: Sequence[str]) -> str:
    captions = (entry.caption for column in columns for entry in column.run.clips if entry.id == clip)
    caption = next((text for text in captions if text), None)
    title = f"“{escape(caption)}”" if caption else escape(clip)
    name = f'<span class="id">{escape(clip)}</span>' if caption else ""
    of = f'<span class="id">{escape(benchmark)}</span>' if named and benchmark else ""
    return (
        f'<article class="prompt" data-benchmark="{escape(benchmark)}">'
        f"<header><h3>{title}</h3>{name}{of}"
        '<button type="button" class="in-turn">Play in turn</button></header>'
        f'<div class="cards">{"".join(cards)}</div></article>'
    )


def _card(column: Strand, clip: str, shown: Shown | str | None, metrics: Sequence[Column]) -> str:
    entry = next((entry for entry in column.run.clips if entry.id == clip), None)
    own = scores(entry, metrics)
    if shown is None:
        body = f'<p class="note">no clip of this prompt</p>{own}'
    elif isinstance(shown, str):
        body = f'<p class="note">cannot be shown: {escape(shown)}</p>{own}'
    else:
        body = player(shown, f"{column.title}, {clip}") + own
    return f'<section class="card">{heading(column.title, column.tint)}{body}</section>'
