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
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def clip_notes(self) -> list[str]:
        """A line for each reason why clips are not shown."""
        return self.clips.notes([run for row in [*self.arms, *self.references] for run in row.runs])

    def to_dict(self) -> dict[str, Any]:
        """The aggregate as plain data, schema "ovi_eval.leaderboard/1"."""
        return {
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
) -> Leaderboard:
    """Reads runs (study folders, run folders, results files) and ranks them.

    `first` is the arm all others are compared with (default: the first of `order`, else the first found).
    `order` names the arms as the study defines them. `claims` is plain data for `claims.parse_claims`. `expected`
    lists (arm, seed) pairs, so that a run which never began is named as well. What is not given is taken from the
    aggregate that an earlier call left in a study folder among `paths`. `published` are numbers of others, shown in a
    section of their own and never ranked. `clips` are folders below which the clips of runs lie that are not in the
    runs' own folders: nothing else is put into the page (see `clip_files`).

    Raises UserError where no run is usable, two runs have one name and seed, `first` is unknown, or a folder of
    `clips` is not there.
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
) -> Leaderboard:
    """The leaderboard of runs that have been read; arguments and errors as `build_leaderboard`'s."""
    problems = [
        f"{'/'.join(missing.folder.parts[-2:])}: {without_places(missing.reason)}"
        for missing in found.missing
    ]
    problems += [f"{run.label()}: {problem}" for run in found.runs for problem in run.problems]
    have = {(run.name, run.seed) for run in found.runs} | {
        (name, seed)
        for missing in found.missing
        for name, seed in expected
        if missing.folder.parts[-2:] == (name, f"seed_{seed}")
    }
    problems += [f"{name}, seed {seed}: has not begun" for name, seed in expected if (name, seed) not in have]
    rows = rows_of(found.runs)
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

    columns = columns_of(found.runs)
    arms = [with_cells(row, columns, problems) for row in arms]
    references = [with_cells(row, columns, problems) for row in references]
    arms = held_up_to(references, marked(arms, columns), columns)
    arms = ranked(compared(arms, columns, first), columns, references)
    parsed = parse_claims(claims)
    findings = findings_on(parsed, [*arms, *references], columns)
    return Leaderboard(title, message, first, columns, arms, references, findings, problems, parsed)


def findings_on(claims: Sequence[Claim], rows: Sequence[Row], columns: Sequence[Column]) -> list[Finding]:
    """One finding a claim from the values of these rows. Raises UserError for a claim that no data can show."""
    by_name = {row.name: row for row in rows}
    return decide(claims, lambda comparison: _measure(comparison, by_name, columns))


def _remembered(found: FoundRuns) -> dict[str, Any]:
    """How the study was shown before, from the one aggregate met on the way; nothing where there are several."""
    if len(found.leaderboards) != 1:
        return {}
    file = found.leaderboards[0]
    study = load_json(file).get("study")
    if not isinstance(study, dict):
        raise UserError(f"{file}: field study must be an object; remove the file to build it anew")
    for key, kind in {"title": str, "message": str, "first": str, "order": list, "claims": list}.items():
        if key in study and not isinstance(study[key], kind):
            raise UserError(f"{file}: field study.{key} has a wrong type; remove the file")
    return study


def _measure(
    comparison: ClaimedComparison, rows: Mapping[str, Row], columns: Sequence[Column]
) -> Measured | str:
    """The numbers of a claimed comparison, or why there are none."""
    metric, arms = comparison.metric, f"{comparison.arm} against {comparison.versus}"
    for name in (comparison.arm, comparison.versus):
        if name not in rows:
            return f"Nothing can be said yet of {arms}: {name} has no finished run."
    both = [rows[comparison.arm], rows[comparison.versus]]
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
    if column.direction == "closer_to_reference" and comparison.relation != "within":
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
    return Measured(comparison, a, b, d, column.direction)


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
