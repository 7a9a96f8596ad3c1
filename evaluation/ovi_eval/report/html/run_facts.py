"""How runs were made: what all of them share, and what is each one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovi_eval.ranking.table import Row
from ovi_eval.results.files import RunResults


@dataclass(frozen=True)
class FactsOfRuns:
    """Each run's model, facts on how it was made, and notes; the facts that all `shared`, and the names of those that
    are a run's `own`.
    """

    runs: Sequence[tuple[str, Mapping[str, str], Sequence[str]]]
    shared: Mapping[str, str]
    own: Sequence[str]


def facts_of_runs(rows: Sequence[Row]) -> FactsOfRuns:
    """The facts of all runs of these rows."""
    runs = [(row.name, _facts(run), run.notes) for row in rows for run in row.runs]
    of_key: dict[str, list[str | None]] = {
        key: [facts.get(key) for _, facts, _ in runs] for _, facts, _ in runs for key in facts
    }
    shared = {key: values[0] or "–" for key, values in of_key.items() if len(set(values)) == 1}
    return FactsOfRuns(runs, shared, [key for key in of_key if key not in shared])


def _facts(run: RunResults) -> dict[str, str]:
    """All that is known of how a run was made, by dotted names."""
    facts = {
        "benchmark": run.benchmark,
        "seed": "" if run.seed is None else str(run.seed),
        "configuration": run.config_hash,
        "lineage": "; ".join(run.lineage),
        "clips": str(run.n_clips),
        "scored": run.created,
        # the number of clips has the name already
        **{"folder of clips" if key == "clips" else key: text for key, text in _flat(run.provenance)},
    }
    return {key: value for key, value in facts.items() if value}


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as dotted names with text."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
