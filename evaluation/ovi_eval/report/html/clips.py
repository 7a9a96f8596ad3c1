"""The clips of the page: whose they are, which prompts are shown, and each clip's own values.

The first section of clips has a row for each prompt and a clip for each model; see `models` for a model's own clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ovi_eval.ranking.columns import Column
from ovi_eval.ranking.table import Row
from ovi_eval.report.html.clip_store import ClipStore, PageClip
from ovi_eval.report.palette import colour
from ovi_eval.results.clip_files import ClipFinder
from ovi_eval.results.files import ClipScores, RunResults

if TYPE_CHECKING:
    from ovi_eval.ranking.leaderboard import Leaderboard

MAX_PROMPTS = 8
# Of base64 text: what the rows of prompts may take of the page.
BUDGET = 6_000_000

Step = Callable[[int, int], None]


@dataclass(frozen=True)
class ClipSource:
    """What clips come from: a run of an arm, or of a reference (without a colour), and its files by clip id."""

    title: str
    run: RunResults
    tint: str | None
    files: Mapping[str, Path]

    def clip(self, name: str) -> ClipScores | None:
        """The scores of a clip; None where the run has none of this id."""
        return next((clip for clip in self.run.clips if clip.id == name), None)


def sources_of(row: Row, benchmark: str, tint: str | None, finder: ClipFinder) -> list[ClipSource]:
    """The row's runs of a benchmark, each with those of its clips that were found."""
    runs = _merged([run for run in row.runs if run.benchmark == benchmark], finder)
    return [
        ClipSource(
            row.name + ("" if run.seed is None else f" · seed {run.seed}"), run, tint, finder.of(run).files
        )
        for run in runs
    ]


def _merged(runs: Sequence[RunResults], finder: ClipFinder) -> list[RunResults]:
    """Runs of one seed that were scored by one metric after another become one run with all values."""
    found: list[RunResults] = []
    for run in runs:
        for place, other in enumerate(found):
            if other.seed == run.seed and not set(other.metrics) & set(run.metrics):
                found[place] = _both(other, run, finder)
                break
        else:
            found.append(run)
    return found


def _both(a: RunResults, b: RunResults, finder: ClipFinder) -> RunResults:
    clips = {clip.id: clip for clip in a.clips}
    for clip in b.clips:
        if (same := clips.get(clip.id)) is not None:
            clip = replace(
                clip,
                values={**same.values, **clip.values},
                caption=same.caption or clip.caption,
                failed=same.failed or clip.failed,
                reasons={**same.reasons, **clip.reasons},
                same_as=same.same_as or clip.same_as,
            )
        clips[clip.id] = clip
    lead = a if finder.of(a).files else b
    return replace(lead, metrics={**a.metrics, **b.metrics}, clips=tuple(clips.values()))


def tint_of(board: Leaderboard, row: Row) -> str | None:
    """The colour of an arm, None for a reference."""
    return next((colour(i) for i, arm in enumerate(board.arms) if arm is row), None)


def values_shown(clip: ClipScores, columns: Sequence[Column]) -> list[tuple[Column, float]]:
    """A clip's own values, each once, though several columns may be of one metric."""
    first = {column.key: column for column in reversed(columns)}
    return [
        (column, value)
        for column in columns
        if first[column.key] is column and (value := clip.values.get(column.key)) is not None
    ]


@dataclass(frozen=True)
class PromptRow:
    """One prompt: of each source its scores, and its clip, why that cannot be shown, or None where it has none."""

    benchmark: str
    clip_id: str
    cards: Sequence[tuple[ClipSource, ClipScores | None, PageClip | str | None]]

    @property
    def caption(self) -> str | None:
        """What a source says it is of."""
        return next((clip.caption for _, clip, _ in self.cards if clip is not None and clip.caption), None)


def prompt_rows(board: Leaderboard, store: ClipStore, step: Step) -> tuple[list[PromptRow], int]:
    """The prompts to show, by benchmark, and how many more would take more than BUDGET of the store.

    `step` is called with how many clips of how many have been read.
    """
    names = list(dict.fromkeys(run.benchmark for row in board.arms for run in row.runs))
    plan = []
    for name in names:
        sources = _sources(board, name)
        chosen = _prompts(sources, max(2, MAX_PROMPTS // len(names)))
        plan += [(place, name, clip, sources) for place, clip in enumerate(chosen)]
    # Every benchmark's first prompt before anyone's second, as the page may be full before the last.
    plan.sort(key=lambda entry: entry[0])
    total, done = sum(len(sources) for *_, sources in plan), 0
    rows: list[PromptRow] = []
    for _, benchmark, name, sources in plan:
        files = [source.files[name] for source in sources if name in source.files]
        read = dict(zip(files, store.read(files), strict=True))
        done += len(sources)
        step(done, total)
        if store.used + sum(map(store.cost, read.values())) > BUDGET:
            break
        for clip in read.values():
            store.add(clip)
        cards = [(s, s.clip(name), read[s.files[name]] if name in s.files else None) for s in sources]
        rows.append(PromptRow(benchmark, name, cards))
    return sorted(rows, key=lambda row: names.index(row.benchmark)), len(plan) - len(rows)


def _sources(board: Leaderboard, benchmark: str) -> list[ClipSource]:
    """What the columns of clips of a benchmark come from: real clips first, then the arms, each by its first
    run that has clips. Others have no column.
    """
    real = [row for row in board.references if row.name.startswith("real")] or list(board.references)
    first_real = [found for row in real if (found := _first(board, row, benchmark))][:1]
    return first_real + [found for row in board.arms if (found := _first(board, row, benchmark))]


def _first(board: Leaderboard, row: Row, benchmark: str) -> ClipSource | None:
    sources = sources_of(row, benchmark, tint_of(board, row), board.clips)
    return next((source for source in sources if source.files), None)


def _prompts(sources: Sequence[ClipSource], most: int) -> list[str]:
    """Clip ids to show: those that most sources have, in order, at most `most`."""
    counts = Counter(clip for source in sources for clip in source.files)
    top = max(counts.values(), default=0)
    return [clip for clip in sorted(counts) if counts[clip] == top][:most]
