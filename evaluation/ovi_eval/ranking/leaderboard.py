"""A leaderboard worked out: what every way of showing it reads.

`ovi_eval.ranking.build` makes one from runs; `ovi_eval.report` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ovi_eval.ranking import claims as claims_module
from ovi_eval.ranking.claims import Claim, Finding
from ovi_eval.ranking.table import Column, Row, row_as_data
from ovi_eval.results.clip_files import ClipFinder
from ovi_eval.results.files import LEADERBOARD_SCHEMA
from ovi_eval.results.published import PublishedTable


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

    def groups(self) -> dict[str, list[Column]]:
        """Columns by metric group, in order."""
        found: dict[str, list[Column]] = {}
        for column in self.columns:
            found.setdefault(column.group, []).append(column)
        return found

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
                "claims": claims_module.claims_as_data(self.claims),
            },
            "findings": [asdict(finding) for finding in self.findings],
            "columns": [asdict(column) for column in self.columns],
            "arms": [row_as_data(row) for row in self.arms],
            "references": [row_as_data(row) for row in self.references],
            "problems": list(self.problems),
            "published": [table.to_dict() for table in self.published],
        }
