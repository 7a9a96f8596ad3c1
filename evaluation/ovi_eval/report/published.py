"""Words of the section of published numbers beside the leaderboard.

Nothing in it is ranked, made bold or compared with a measured value.
"""

from __future__ import annotations

from collections.abc import Sequence

from ovi_eval.results.published import PublishedTable

TITLE = "Published by others"
CAUTION = (
    "Read, not measured here: values as printed, under their sources' own names. Prompts, evaluators and "
    "versions of metrics differ from table to table, so nothing here is ranked, and nothing compares with the "
    "leaderboard."
)


def extent(tables: Sequence[PublishedTable]) -> str:
    """`2 tables, 5 systems`."""
    systems = len({system for table in tables for system in table.rows})
    counted = ((len(tables), "table"), (systems, "system"))
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counted)


def origin(published: PublishedTable) -> str:
    """Where the numbers are from and how they were read, in one line."""
    hand = "read first-hand" if published.first_hand else "read second-hand"
    note = f" {published.note}" if published.note else ""
    return f"Source: {published.source}; {hand}: {published.seen_in}.{note}"


def head(metric: str) -> str:
    """A metric's heading: `fvd_pct` -> `fvd (%)`."""
    return f"{metric.removesuffix('_pct')} (%)" if metric.endswith("_pct") else metric


def number(value: float | None) -> str:
    """As printed by the source, but for zeros at the end."""
    return "–" if value is None else repr(value).replace("-", "−")
