"""A page of its own for every model, inside the one file: its values with all that stands behind them, its worst
and best clips by every metric, the clips without a value, and how its runs were made.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovi_eval.ranking.columns import Column, grouped
from ovi_eval.ranking.ranks import badness, target_of
from ovi_eval.ranking.table import Cell, Row
from ovi_eval.report import wording
from ovi_eval.report.html.clip_store import AT_ONCE, ClipStore, PageClip
from ovi_eval.report.html.clips import ClipSource, Step, sources_of, tint_of
from ovi_eval.report.html.drawings import Axis
from ovi_eval.report.html.run_facts import FactsOfRuns, facts_of_runs
from ovi_eval.results.files import ClipScores, MetricValue, RunResults

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

# Clips of each end that a metric shows.
COUNT = 2
# Clips without a value that are listed, and how many of them play.
MAX_LACKING, PLAYED = 40, 2


@dataclass(frozen=True)
class Measure:
    """One value of a model, or (no cell) one that it lacks: the value's place among all models, what its runs state of
    it, and what warns of it.
    """

    column: Column
    cell: Cell | None
    axis: Axis | None
    place: str
    by_run: Sequence[MetricValue]
    warnings: Sequence[str]

    @property
    def weights(self) -> dict[str, str]:
        """The sha256 of the networks' files by name."""
        return {name: digest for metric in self.by_run for name, digest in metric.weights.items()}


@dataclass(frozen=True)
class Ranked:
    """A clip and its value by the metric in question."""

    value: float
    clip: ClipScores


@dataclass(frozen=True)
class Extremes:
    """By one metric: the worst clips, worst first, and the best, best first; `of` clips were looked through."""

    column: Column
    worst: Sequence[Ranked]
    best: Sequence[Ranked]
    of: int


@dataclass(frozen=True)
class ModelClips:
    """The clips of a model on one benchmark, named by `title` where it has several.

    `shown`: by id the clips that play here, or why one cannot.
    """

    title: str
    source: ClipSource
    columns: Sequence[Column]
    extremes: Sequence[Extremes]
    lacking: Sequence[ClipScores]
    shown: Mapping[str, PageClip | str]

    def cards(self, ends: Extremes) -> tuple[list[tuple[str, Ranked]], list[tuple[str, Ranked]]]:
        """The worst and best clips that have a card (the first of each end, and what plays), and those only named."""
        members = [
            (which, ranked, place == 0 or ranked.clip.id in self.shown)
            for which, part in (("worst", ends.worst), ("best", ends.best))
            for place, ranked in enumerate(part)
        ]
        cards = [(which, ranked) for which, ranked, card in members if card]
        return cards, [(which, ranked) for which, ranked, card in members if not card]


@dataclass(frozen=True)
class ModelPage:
    """All that a model's page shows; `measures` by benchmark."""

    row: Row
    address: str
    tint: str | None
    facts: Sequence[str]
    measures: Mapping[str, Sequence[Measure]]
    clips: Sequence[ModelClips]
    runs: FactsOfRuns


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


def model_pages(board: Leaderboard, store: ClipStore, step: Step) -> list[ModelPage]:
    """The pages of all models. Every model may take an equal part of what the store has left, and more where another
    needs less. `step` is called with the number of pages done and of all.
    """
    rows = [*board.arms, *board.references]
    pages, address_of = [], addresses(board)
    for place, row in enumerate(rows):
        limit = store.used + max(0, store.budget - store.used) // (len(rows) - place)
        tint, address = tint_of(board, row), address_of[row.name, row.kind]
        clips = _all_clips(board, row, tint, store, limit)
        pages.append(
            ModelPage(row, address, tint, _facts(row), _measures(board, row), clips, facts_of_runs([row]))
        )
        step(place + 1, len(rows))
    return pages


def _facts(row: Row) -> list[str]:
    clips = sorted({run.n_clips for run in row.runs})
    found = [
        "" if row.kind == "measured" else "reference, not ranked",
        wording.seeds(row),
        f"{' or '.join(map(str, clips))} clips a run",
        ", ".join(filter(None, dict.fromkeys(run.benchmark for run in row.runs))),
        row.runs[0].created[:10],
        *row.lineage,
    ]
    return list(filter(None, found))


def _measures(board: Leaderboard, row: Row) -> dict[str, list[Measure]]:
    """By benchmark one for each column in which the row has a value, or was scored and has none."""
    found: dict[str, list[Measure]] = {}
    for benchmark, columns in grouped(board.columns, "benchmark").items():
        found[benchmark] = []
        for column in columns:
            by_run = [m for run in row.runs if (m := column.metric_of(run)) is not None]
            cell = row.cells.get(column.id)
            if cell is not None or by_run:
                axis = None if cell is None else Axis.of([*board.arms, *board.references], column)
                place, warnings = _place(board, row, column, cell), _warnings(column, by_run, cell)
                found[benchmark].append(Measure(column, cell, axis, place, by_run, warnings))
    return found


def _place(board: Leaderboard, row: Row, column: Column, cell: Cell | None) -> str:
    if cell is None or cell.rank is None:
        return "reference" if row.kind == "reference" else "not ranked"
    of = sum(1 for arm in board.arms if column.id in arm.cells and not arm.cells[column.id].partial)
    return f"rank {cell.rank} of {of}" if of > 1 else "the only one"


def _warnings(column: Column, values: Sequence[MetricValue], cell: Cell | None) -> list[str]:
    found = list(dict.fromkeys(text for metric in values for text in metric.warnings))
    if cell is not None and cell.partial:
        found.insert(0, wording.PARTIAL)
    if not column.comparable:
        found.insert(0, wording.NOT_COMPARABLE)
    biases = [metric.bias for metric in values if metric.bias is not None]
    if biases:
        mean = sum(biases) / len(biases)
        found.append(f"too high by about {wording.number(mean, column)}, as the clips are few")
    return found


def _all_clips(
    board: Leaderboard, row: Row, tint: str | None, store: ClipStore, limit: int
) -> list[ModelClips]:
    """Of every benchmark the first run with clips on disk, else the first with values by clip."""
    found = []
    benchmarks = list(dict.fromkeys(run.benchmark for run in row.runs))
    for place, benchmark in enumerate(benchmarks):
        sources = sources_of(row, benchmark, tint, board.clips)
        playable = [source for source in sources if source.files]
        scored = [source for source in sources if source.run.clips]
        if playable or scored:
            of_this = store.used + max(0, limit - store.used) // (len(benchmarks) - place)
            title = benchmark if len(benchmarks) > 1 else ""
            found.append(_clips(board, (playable or scored)[0], title, store, of_this))
    return found


def _clips(board: Leaderboard, source: ClipSource, title: str, store: ClipStore, limit: int) -> ModelClips:
    run = source.run
    columns = [c for c in board.columns if c.kind == "mean" and c.metric_of(run) is not None]
    targets = [(column, target_of(board.references, column)) for column in columns]
    ends = (extremes(run, column, COUNT, target, source.files or None) for column, target in targets)
    found = [of_metric for of_metric in ends if of_metric is not None]
    lacking = without_value(run)
    return ModelClips(title, source, columns, found, lacking, _chosen(source, found, lacking, store, limit))


def extremes(
    run: RunResults,
    column: Column,
    count: int,
    target: float | None = None,
    among: Container[str] | None = None,
) -> Extremes | None:
    """The `count` worst and best clips of a run; fewer where there are not two times as many.

    `target` is where values are best if the column's direction is "closer_to_reference"; `among` keeps to
    clips of these ids. None where fewer than two clips have a value, all are as good, or no target is known.
    """
    if column.direction == "closer_to_reference" and target is None:
        return None
    scored = [
        Ranked(value, clip)
        for clip in run.clips
        if (value := clip.values.get(column.key)) is not None and (among is None or clip.id in among)
    ]
    bad = {ranked.clip.id: badness(ranked.value, column.direction, target) for ranked in scored}
    if len(set(bad.values())) < 2:
        return None
    ordered = sorted(scored, key=lambda ranked: bad[ranked.clip.id])
    count = min(count, len(ordered) // 2)
    return Extremes(column, ordered[::-1][:count], ordered[:count], len(ordered))


def without_value(run: RunResults) -> list[ClipScores]:
    """Clips that failed, then those to which a metric gave no value and said why."""
    lacking = [clip for clip in run.clips if clip.failed or clip.reasons]
    return sorted(lacking, key=lambda clip: clip.failed is None)


def _chosen(
    source: ClipSource, found: Sequence[Extremes], lacking: Sequence[ClipScores], store: ClipStore, limit: int
) -> dict[str, PageClip | str]:
    """What can be shown of the clips by id, added to the store until its limit: of all metrics the very worst
    and best first, then clips without a value, then what comes next.
    """
    by_place = [
        [part[k].clip.id for ends in found for part in (ends.worst, ends.best) if k < len(part)]
        for k in range(COUNT)
    ]
    order = dict.fromkeys(
        [*by_place[0], *(clip.id for clip in lacking[:PLAYED]), *(name for k in by_place[1:] for name in k)]
    )
    wanted = [name for name in order if name in source.files]
    shown: dict[str, PageClip | str] = {}
    for start in range(0, len(wanted), AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        for name, clip in zip(part, store.read([source.files[name] for name in part]), strict=True):
            if store.used + store.cost(clip) > limit:
                return shown
            store.add(clip)
            shown[name] = clip
    return shown
