"""Two models side by side: what one has more or less of, how sure that is, and what cannot be compared.

Each side is one run, or several runs of one model with other training seeds. A metric with a value per clip is
compared on the clips that both sides have, clip by clip; a value of a set (a Fréchet distance) over seeds, or,
of two single runs, by the intervals that they state. Values of other versions, variants or benchmarks, and
those of a part of the clips, are refused by name while the rest is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ovi_eval.errors import UserError
from ovi_eval.ranking.claims import ALPHA
from ovi_eval.ranking.columns import Column, columns_of
from ovi_eval.ranking.comparison_notes import (
    Side,
    notes_on_metric,
    notes_on_scoring,
    some_names,
    why_column_not_compared,
    why_not_compared,
)
from ovi_eval.ranking.ranks import copies_of, difference, verdict_on
from ovi_eval.ranking.table import Row, by_seed_as_data, clip_values, rows_of, values_of
from ovi_eval.results.find_runs import find_runs
from ovi_eval.stats.differences import Difference, Pairs, holm, paired_clips

COMPARISON_SCHEMA = "ovi_eval.comparison/1"
MOST_REASONS = 2
"""Number of metrics whose reasons are shown where none can be compared."""
Verdict = Literal["a_better", "b_better", "differ", "no_difference", "not_tested"]
"""`differ`: clearly apart where neither high nor low is better; `not_tested`: nothing says how sure it is."""
Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Entry:
    """One metric. `a` and `b` are the means that `difference` is the difference of: over the clips or seeds in
    common; `whole_a` and `whole_b` are the sides' own values. `p_adjusted` is Holm's over all entries.
    """

    column: Column
    a: float
    b: float
    whole_a: float
    whole_b: float
    difference: Difference
    p_adjusted: float | None
    verdict: Verdict
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Refusal:
    """A metric that was not compared, and why in one line."""

    metric: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    a: Side
    b: Side
    entries: Sequence[Entry]
    refusals: Sequence[Refusal]
    notes: Sequence[str] = ()
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, schema "ovi_eval.comparison/1"."""
        return {
            "schema": COMPARISON_SCHEMA,
            "created": self.created,
            "a": _side_as_data(self.a),
            "b": _side_as_data(self.b),
            "alpha": ALPHA,
            "metrics": [_entry_as_data(entry) for entry in self.entries],
            "not_compared": [asdict(refusal) for refusal in self.refusals],
            "notes": list(self.notes),
        }


def compare(paths_a: Paths, paths_b: Paths) -> Comparison:
    """Compares two models, each given as a results file or a folder of them, or several of one model's seeds.

    Raises UserError where a side has no run or runs of several models, a file is unsound, or no metric at all
    can be compared.
    """
    rows = [_row(paths) for paths in (paths_a, paths_b)]
    a, b = (Side(label, _files(row), row) for label, row in zip(_labels(*rows), rows, strict=True))
    columns = columns_of([*a.row.runs, *b.row.runs])
    entries: list[Entry] = []
    refusals: list[Refusal] = []
    for key in dict.fromkeys((c.kind == "loss", c.key) for c in columns):
        same = [c for c in columns if (c.kind == "loss", c.key) == key]
        both = [c for c in same if c.comparable and values_of(a.row, c) and values_of(b.row, c)]
        if not both:
            refusals.append(Refusal(same[0].key, why_not_compared(a, b, same)))
        for column in same if both else ():
            if column not in both:
                refusals.append(Refusal(column.id, why_column_not_compared(a, b, column)))
                continue
            found = _entry(a, b, column)
            if isinstance(found, Entry):
                entries.append(found)
            else:
                refusals.append(found)
    if not entries:
        reasons = "; ".join(f"{refusal.metric}: {refusal.reason}" for refusal in refusals[:MOST_REASONS])
        if len(refusals) > MOST_REASONS:
            reasons += f"; and {len(refusals) - MOST_REASONS} more metrics"
        reasons = reasons or "neither has a metric"
        raise UserError(f"{a.label} and {b.label}: nothing can be compared: {reasons}")
    adjusted = holm([entry.difference.test.p for entry in entries])
    judged = [
        replace(entry, p_adjusted=p, verdict=_verdict(entry, p))
        for entry, p in zip(entries, adjusted, strict=True)
    ]
    notes = [f"{side.label}: {line}" for side in (a, b) for line in side.row.lineage]
    return Comparison(a, b, judged, refusals, [*notes, *notes_on_scoring(a, b)])


def _row(paths: Paths) -> Row:
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    if not listed:
        raise UserError("a side of the comparison names no file; name a results.json or a folder of them")
    found = find_runs(listed)
    where = ", ".join(map(str, listed))
    if not found.runs:
        missing = "; ".join(f"{missing.folder}: {missing.reason}" for missing in found.missing)
        missing = f" ({missing})" if missing else ""
        raise UserError(f"{where}: no results were found{missing}; score the clips first")
    rows = rows_of(found.runs)
    if len(rows) > 1:
        names = ", ".join(dict.fromkeys(row.name for row in rows))
        raise UserError(
            f"{where}: holds runs of {names}; a side is one model, so name its files, or score them with one --name"
        )
    return rows[0]


def _files(row: Row) -> list[str]:
    """The runs' files as others may know them: a results.json with its folder's name, others by their own."""
    found = []
    for run in row.runs:
        parts = run.source.parts if run.source is not None else ("in memory",)
        found.append("/".join(parts[-2:] if parts[-1] == "results.json" else parts[-1:]))
    return found


def _labels(a: Row, b: Row) -> tuple[str, str]:
    """The models' names; of equal names, each with its file or its seeds."""
    if a.name != b.name:
        return a.name, b.name
    for distinction in (_file, _seeds):
        if distinction(a) != distinction(b):
            return f"{a.name} ({distinction(a)})", f"{b.name} ({distinction(b)})"
    return f"{a.name} (first)", f"{b.name} (second)"


def _file(row: Row) -> str:
    source = row.runs[0].source
    return "" if source is None else "/".join(source.parts[-2:])


def _seeds(row: Row) -> str:
    return "seed " + ", ".join("none" if seed is None else str(seed) for seed in row.seeds)


def _entry(a: Side, b: Side, column: Column) -> Entry | Refusal:
    """The comparison in one column; p values are adjusted and judged later, over all columns."""
    whole_a, whole_b = (values_of(side.row, column) for side in (a, b))
    clips_a, clips_b = clip_values(a.row, column), clip_values(b.row, column)
    pairs: Pairs | None = None
    if clips_a is not None and clips_b is not None:
        pairs = paired_clips(clips_a, clips_b, copies_of(a.row, b.row, column))
        if pairs is None:
            return Refusal(
                column.id,
                f"no clip in common: {a.label} has {some_names(clips_a)}, {b.label} has {some_names(clips_b)}; "
                "a prompt's clip needs the same name on both sides",
            )
    found = difference(a.row, b.row, column)
    if found is None:
        raise TypeError(f"{column.id} has values on both sides and yet no difference")
    if pairs is not None:
        mean_a, mean_b = (float(np.nanmean(x_SN, axis=1).mean()) for x_SN in (pairs.a_SN, pairs.b_SN))
    else:
        mean_a, mean_b = (
            float(np.mean([values[seed] for seed in found.by_seed or values]))
            for values in (whole_a, whole_b)
        )
    return Entry(
        column=column,
        a=mean_a,
        b=mean_b,
        whole_a=float(np.mean(list(whole_a.values()))),
        whole_b=float(np.mean(list(whole_b.values()))),
        difference=found,
        p_adjusted=None,
        verdict="not_tested",
        notes=notes_on_metric(a, b, column, found, (clips_a, clips_b)),
    )


def _verdict(entry: Entry, p: float | None) -> Verdict:
    found = verdict_on(entry.difference, p, entry.column.direction)
    return "a_better" if found == "better" else "b_better" if found == "worse" else found


def _side_as_data(side: Side) -> dict[str, Any]:
    runs = [
        {"file": file, "seed": run.seed, "created": run.created, "config_hash": run.config_hash}
        for file, run in zip(side.files, side.row.runs, strict=True)
    ]
    return {"label": side.label, "name": side.row.name, "kind": side.row.kind, "runs": runs}


def _entry_as_data(entry: Entry) -> dict[str, Any]:
    data = asdict(entry)
    data["difference"]["by_seed"] = by_seed_as_data(entry.difference.by_seed)
    return data
