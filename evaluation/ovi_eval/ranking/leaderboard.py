"""The leaderboard: arms with seeds, intervals and paired differences to the first arm; references beside them.

`build_leaderboard` reads runs from disk, `collect_leaderboard` ranks what has been read. What is drawn, printed and
written (terminal, Markdown, HTML page, figure) is in `ovi_eval.report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ovi_eval.common.places import without_places
from ovi_eval.common.shown import did_you_mean
from ovi_eval.errors import UserError
from ovi_eval.ranking.claimed_trends import ClaimedTrend, MeasuredTrend, measure_trend, side_name
from ovi_eval.ranking.claims import (
    Claim,
    ClaimedComparison,
    Finding,
    Measured,
    claims_as_data,
    decide,
    parse_claims,
)
from ovi_eval.ranking.columns import Column, columns_of
from ovi_eval.ranking.ranks import compared, difference, held_up_to, marked, ranked
from ovi_eval.ranking.sweep import Axes, Sweep, swept
from ovi_eval.ranking.table import Row, row_as_data, rows_of, with_cells
from ovi_eval.results.clip_files import ClipFinder
from ovi_eval.results.files import LEADERBOARD_SCHEMA, load_json
from ovi_eval.results.find_runs import FoundRuns, find_runs
from ovi_eval.results.published import PublishedTable
from ovi_eval.stats.intervals import Seed


@dataclass(frozen=True)
class Leaderboard:
    title: str
    message: str
    first: str
    columns: Sequence[Column]
    arms: Sequence[Row]
    references: Sequence[Row]
    findings: Sequence[Finding]
    problems: Sequence[str]
    """Runs that are missing, unfinished or unreadable, and values that could not be used as they stand."""
    claims: Sequence[Claim] = ()
    published: Sequence[PublishedTable] = ()
    """Numbers of others, shown in a section of their own and never ranked."""
    clips: ClipFinder = field(default_factory=ClipFinder)
    """Which clips may be shown, and why others may not."""
    sweep: Sweep | None = None
    """Where the arms are on curves, where they differ in numbers."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def clip_notes(self) -> list[str]:
        """A line for each reason why clips are not shown."""
        return self.clips.notes([run for row in [*self.arms, *self.references] for run in row.runs])

    def to_dict(self) -> dict[str, Any]:
        """The aggregate as plain data, schema "ovi_eval.leaderboard/1"."""
        data: dict[str, Any] = {
            "schema": LEADERBOARD_SCHEMA,
            "created": self.created,
            "study": {
                "title": self.title,
                "message": self.message,
                "first": self.first,
                "order": [row.name for row in self.arms],
                "claims": claims_as_data(self.claims),
            },
            "findings": [asdict(finding) for finding in self.findings],
            "columns": [asdict(column) for column in self.columns],
            "arms": [row_as_data(row) for row in self.arms],
            "references": [row_as_data(row) for row in self.references],
            "problems": list(self.problems),
            "published": [asdict(table) for table in self.published],
        }
        if self.sweep is not None:
            axes = self.sweep.axes
            data["study"] |= {"x": list(axes.x), "by": list(axes.by), "paper": dict(axes.paper)}
            data["sweep"] = self.sweep.as_data({row.name: row for row in self.arms}, self.columns)
        return data


def build_leaderboard(
    paths: Sequence[str | Path],
    first: str | None = None,
    title: str | None = None,
    message: str | None = None,
    *,
    order: Sequence[str] | None = None,
    claims: Sequence[Any] | None = None,
    expected: Sequence[tuple[str, Seed]] = (),
    published: Sequence[PublishedTable] = (),
    clips: Sequence[str | Path] = (),
    axes: Axes | None = None,
    failed: Mapping[tuple[str, Seed], str] | None = None,
) -> Leaderboard:
    """Reads runs (study folders, run folders, results files) and ranks them.

    `first` is the arm all others are compared with (default: the first of `order`, else the first found).
    `order` names the arms as the study defines them. `claims` is plain data for `claims.parse_claims`. `expected`
    lists (arm, seed) pairs, so that a run which never began is named as well; `failed` says of some why they ended.
    What is not given is taken from the aggregate that an earlier call left in a study folder among `paths`. `published`
    are numbers of others, shown in a section of their own and never ranked. `clips` are folders below which the clips
    of runs lie that are not in the runs' own folders: nothing else is put into the page (see `clip_files`). `axes`: the
    runs differ in these numbers, and are shown as curves, or as a table of two.

    Raises UserError where no run is usable, two runs have one name and seed, `first` is unknown, a folder of
    `clips` is not there, or the runs do not make curves over `axes` (see `sweep.swept`).
    """
    found = find_runs(paths)
    remembered = _remembered(found)
    board = collect_leaderboard(
        found,
        first=first or remembered.get("first"),
        title=title or remembered.get("title") or "Leaderboard",
        message=message if message is not None else remembered.get("message") or "",
        order=order if order is not None else remembered.get("order") or (),
        claims=claims if claims is not None else remembered.get("claims") or (),
        expected=expected,
        first_must_exist=first is not None,
        axes=axes or (None if expected else _remembered_axes(remembered)),
        failed=failed,
    )
    return replace(board, published=tuple(published), clips=ClipFinder(found.runs, clips))


def collect_leaderboard(
    found: FoundRuns,
    *,
    first: str | None = None,
    title: str = "Leaderboard",
    message: str = "",
    order: Sequence[str] = (),
    claims: Sequence[Any] = (),
    expected: Sequence[tuple[str, Seed]] = (),
    first_must_exist: bool = True,
    axes: Axes | None = None,
    failed: Mapping[tuple[str, Seed], str] | None = None,
) -> Leaderboard:
    """The leaderboard of runs that have been read; arguments and errors as `build_leaderboard`'s.

    Where there are `axes`, arms are not compared with the first one, and have no interval over clips: values are held
    against the number, seed by seed.
    """
    failures = failed or {}
    problems = [
        f"{name}, seed {seed}: failed: {without_places(message)}"
        for (name, seed), message in failures.items()
    ]
    gone = {(name, f"seed_{seed}") for name, seed in failures}
    problems += [
        f"{'/'.join(missing.folder.parts[-2:])}: {without_places(missing.reason)}"
        for missing in found.missing
        if missing.folder.parts[-2:] not in gone
    ]
    problems += [f"{run.label()}: {problem}" for run in found.runs for problem in run.problems]
    runs, places = (found.runs, {}) if axes is None else swept(found.runs, axes, problems)
    have = {(run.name, run.seed) for run in [*found.runs, *runs]} | {
        (name, seed)
        for missing in found.missing
        for name, seed in expected
        if missing.folder.parts[-2:] == (name, f"seed_{seed}")
    }
    problems += [
        f"{name}, seed {seed}: has not begun"
        for name, seed in expected
        if (name, seed) not in {*have, *failures}
    ]
    rows = rows_of(runs)
    arms = [row for row in rows if row.kind == "measured"]
    references = [row for row in rows if row.kind == "reference"]
    if not arms:
        listed = f"; {'; '.join(problems)}" if problems else ""
        raise UserError(f"no finished run of any arm was found{listed}")
    position = {name: i for i, name in enumerate(order)}
    arms.sort(key=lambda row: position.get(row.name, len(position)))
    names = [row.name for row in arms]
    if first is not None and first not in names:
        if first_must_exist and first not in position:
            offer = did_you_mean(first, names) or f"there are {', '.join(names)}"
            raise UserError(f"no arm is named {first!r}; {offer}")
        problems.append(f"{first}: has no finished run, so differences are to {names[0]}")
        first = None
    first = first or (order[0] if order and order[0] in names else names[0])

    columns = columns_of(runs)
    arms = [with_cells(row, columns, problems, over_clips=axes is None) for row in arms]
    references = [with_cells(row, columns, problems) for row in references]
    arms = held_up_to(references, marked(arms, columns), columns)
    if axes is None:
        arms = compared(arms, columns, first)
    arms = ranked(arms, columns, references)
    sweep = None if axes is None else Sweep(axes, [places[row.name] for row in arms if row.name in places])
    parsed = parse_claims(claims)
    findings = findings_on(parsed, [*arms, *references], columns, sweep)
    return Leaderboard(
        title, message, first, columns, arms, references, findings, problems, parsed, sweep=sweep
    )


def findings_on(
    claims: Sequence[Claim], rows: Sequence[Row], columns: Sequence[Column], sweep: Sweep | None = None
) -> list[Finding]:
    """One finding a claim from the values of these rows. Raises UserError for a claim that no data can show."""
    by_name = {row.name: row for row in rows}

    def measured(claimed: ClaimedComparison | ClaimedTrend) -> Measured | MeasuredTrend | str:
        if isinstance(claimed, ClaimedComparison):
            return _measure(claimed, by_name, columns, sweep)
        column = _column(claimed.metric, [], columns, "the trend")
        return column if isinstance(column, str) else measure_trend(claimed, sweep, by_name, column)

    return decide(claims, measured)


def _remembered(found: FoundRuns) -> dict[str, Any]:
    """How the study was shown before, from the one aggregate met on the way; nothing where there are several."""
    if len(found.leaderboards) != 1:
        return {}
    file = found.leaderboards[0]
    study = load_json(file).get("study")
    if not isinstance(study, dict):
        raise UserError(f"{file}: field study must be an object; remove the file to build it anew")
    kinds = {"title": str, "message": str, "first": str, "paper": dict}
    for key, kind in {**kinds, **dict.fromkeys(("order", "claims", "x", "by"), list)}.items():
        if key in study and not isinstance(study[key], kind):
            raise UserError(f"{file}: field study.{key} has a wrong type; remove the file")
    return study


def _remembered_axes(study: Mapping[str, Any]) -> Axes | None:
    if not study.get("x"):
        return None
    paper = {
        str(key): value for key, value in study.get("paper", {}).items() if isinstance(value, int | float)
    }
    return Axes([str(key) for key in study["x"]], [str(key) for key in study.get("by", ())], paper)


def _measure(
    comparison: ClaimedComparison, rows: Mapping[str, Row], columns: Sequence[Column], sweep: Sweep | None
) -> Measured | str:
    """The numbers of a claimed comparison, or why there are none."""
    metric, given = comparison.metric, (comparison.arm, comparison.versus)
    arms = " against ".join(map(side_name, given))
    both = []
    for side in given:
        row = rows.get(_arm_named(side, sweep) or "")
        if row is None:
            return f"Nothing can be said yet of {arms}: {side_name(side)} has no finished run."
        both.append(row)
    if comparison.versus_metric:
        sides = [_column(metric, both[:1], columns, both[0].name)]
        sides.append(_column(comparison.versus_metric, both[1:], columns, both[1].name))
    else:
        sides = [_column(metric, both, columns, arms)] * 2
    column, other = sides
    if isinstance(column, str) or isinstance(other, str):
        return column if isinstance(column, str) else str(other)
    if column.direction != other.direction:
        raise UserError(f"claim on {column.id} and {other.id}: one is best high and the other low")
    if column.direction == "closer_to_reference" and comparison.relation not in ("within", "equivalent"):
        raise UserError(
            f"claim on {column.id}: it is best near its reference, so neither arm is better; use within"
        )
    d = difference(both[0], both[1], column, None if other is column else other)
    if d is None:
        names = " and ".join(row.name for row in both)
        return f"Nothing can be said of {column.id}: {names} have no clips in common."
    cells = [row.cells[own.id] for row, own in zip(both, (column, other), strict=True)]
    partial = [row.name for row, cell in zip(both, cells, strict=True) if cell.partial]
    if partial and d.n_clips is None:  # with clips in common the two are held against each other on those
        return (
            f"Nothing can be said of {column.id}: {' and '.join(partial)} rests on too few of the clips to be "
            "held against the other."
        )
    a, b = (cell.value for cell in cells)
    if comparison.relation == "equivalent" and len(d.by_seed) < 2:
        return f"Nothing can be said of {column.id} for {arms}: equivalence needs two seeds in common."
    return Measured(comparison, a, b, d, column.direction, (both[0].name, both[1].name))


def _arm_named(side: str | Mapping[str, Any], sweep: Sweep | None) -> str | None:
    """The name of a claim's arm; None where no arm of the sweep, or more than one, has those values of its settings."""
    if isinstance(side, str):
        return side
    found = [] if sweep is None else sweep.having(side)
    return found[0].arm if len(found) == 1 else None


def _column(metric: str, rows: Sequence[Row], columns: Sequence[Column], what: str) -> Column | str:
    """The one column of a metric in which all these rows have a value, or why there is none; `what` names the rows."""
    named = [c for c in columns if metric in (c.id, c.key)]
    if not named:
        return f"Nothing can be said of {metric}: no run has it."
    named = [c for c in named if c.comparable]
    if not named:
        return f"Nothing can be said of {metric}: its values are not comparable, as of a part of the clips."
    shared = [c for c in named if all(c.id in row.cells for row in rows)]
    if len(shared) != 1:
        versions = ", ".join(c.id for c in named)
        count = "more than one version" if shared else "no version"
        return f"Nothing can be said of {metric} for {what}: they have {count} of it in common ({versions})."
    return shared[0]
