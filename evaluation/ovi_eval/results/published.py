"""Numbers that others published, each with its source and whether the source itself was read.

They are shown with a leaderboard and never ranked or merged with what was measured: each table has its own
prompts, evaluator and versions of metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovi_eval.common.fields import Fields
from ovi_eval.common.plain_data import read_yaml
from ovi_eval.errors import UserError

SCHEMA = "ovi_eval.published/1"
OWN_TABLES = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class PublishedTable:
    """One table as its source prints it.

    `rows` holds by system its values by metric, under the source's own names. `source` is where the table
    was published, `seen_in` the text that was read, `first_hand` whether that text is the source itself.
    """

    benchmark: str
    table: str
    source: str
    seen_in: str
    first_hand: bool
    rows: Mapping[str, Mapping[str, float]]
    note: str = ""

    def metrics(self) -> list[str]:
        """The metrics of all systems, in the order they first come."""
        return list(dict.fromkeys(metric for values in self.rows.values() for metric in values))


def published_tables(path: Path = OWN_TABLES) -> list[PublishedTable]:
    """The tables of a YAML file, by default the one that comes with the package, in its order.

    Raises UserError in one line that names the table and the field where the file cannot be read, a table
    lacks its source, or a value is no finite number.
    """
    file = Fields(path, read_yaml(path))
    file.check_schema(SCHEMA)
    tables = []
    for group in file.get("benchmarks", list):
        fields = Fields(path, group, "benchmarks")
        benchmark = fields.get("benchmark", str)
        tables += [_table(path, benchmark, table) for table in fields.get("tables", list)]
    return tables


def by_benchmark(tables: Sequence[PublishedTable]) -> dict[str, list[PublishedTable]]:
    """The tables of each benchmark, both in the order they come."""
    groups: dict[str, list[PublishedTable]] = {}
    for table in tables:
        groups.setdefault(table.benchmark, []).append(table)
    return groups


def _table(path: Path, benchmark: str, entry: Any) -> PublishedTable:
    title = Fields(path, entry, benchmark).get("table", str).strip()
    fields = Fields(path, entry, title)
    texts = {key: fields.get(key, str).strip() for key in ("source", "seen_in")}
    rows: dict[str, dict[str, float]] = {}
    for system, values in fields.get("rows", dict).items():
        row = Fields(path, values, f"{title}.rows.{system}")
        rows[system] = {metric: row.number(metric) for metric in values}
    for key, value in {"table": title, **texts, "rows": rows and all(rows.values())}.items():
        if not value:
            raise UserError(f"{path}: field {title}.{key} is empty; every published number needs it")
    first_hand, note = fields.get("first_hand", bool), fields.text("note")
    return PublishedTable(benchmark, title, **texts, first_hand=first_hand, rows=rows, note=note)
