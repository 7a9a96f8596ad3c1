"""Numbers that others published, each with its source and whether the source itself was read.

They are shown with a leaderboard and never ranked or merged with what was measured: each table has its own
prompts, evaluator and versions of metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ovi_eval.errors import UserError

SCHEMA = "ovi_eval.published/1"


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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def published_tables(path: Path | None = None) -> list[PublishedTable]:
    """The tables that come with the package, or those of another YAML file of the same form, in its order.

    Raises UserError in one line that names the table and the field where the file cannot be read, a table
    lacks its source, or a value is no finite number.
    """
    import yaml

    own = files("ovi_eval").joinpath("results", "published.yaml")
    name = str(path or "published.yaml")
    try:
        data = yaml.safe_load((path or own).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: cannot be read as YAML ({reason}); mend it or leave it out") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise UserError(f'{name}: schema is {found!r}, this version reads "{SCHEMA}"')
    tables = []
    for group in _field(data, "benchmarks", list, name):
        benchmark = _text(group, "benchmark", name)
        for entry in _field(group, "tables", list, f"{name}: {benchmark}"):
            tables.append(_table(entry, benchmark, name))
    return tables


def by_benchmark(tables: Sequence[PublishedTable]) -> dict[str, list[PublishedTable]]:
    """The tables of each benchmark, both in the order they come."""
    groups: dict[str, list[PublishedTable]] = {}
    for table in tables:
        groups.setdefault(table.benchmark, []).append(table)
    return groups


def _table(entry: Any, benchmark: str, name: str) -> PublishedTable:
    title = _text(entry, "table", f"{name}: {benchmark}")
    where = f"{name}: {title}"
    rows: dict[str, dict[str, float]] = {}
    for system, values in _field(entry, "rows", dict, where).items():
        if not isinstance(values, dict) or not values:
            raise UserError(f"{where}: row {system} must hold values by metric, found {values!r}")
        for metric, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{where}: {system}, {metric} must be a finite number, found {value!r}")
        rows[str(system)] = {str(metric): float(value) for metric, value in values.items()}
    return PublishedTable(
        benchmark=benchmark,
        table=title,
        source=_text(entry, "source", where),
        seen_in=_text(entry, "seen_in", where),
        first_hand=_field(entry, "first_hand", bool, where),
        rows=rows,
        note=_text(entry, "note", where) if "note" in entry else "",
    )


def _field(entry: Any, key: str, kind: type, where: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or value in ([], {}):
        wanted = {list: "a list", dict: "an object", bool: "true or false", str: "text"}[kind]
        raise UserError(f"{where}: field {key} must be {wanted} and not empty, found {value!r}")
    return value


def _text(entry: Any, key: str, where: str) -> str:
    text = str(_field(entry, key, str, where)).strip()
    if not text:
        raise UserError(f"{where}: field {key} is empty; every published number needs it")
    return text
