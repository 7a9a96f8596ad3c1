"""Where the numbers come from: what all runs share once, then each run with what is its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ovi_eval.ranking.table import Row
from ovi_eval.report.text import escape
from ovi_eval.results.files import RunResults


def runs_of(rows: Sequence[Row], terms: Mapping[str, str] | None = None) -> str:
    """HTML of a list of what all runs of these rows share, after it `terms`, and of a table of the runs."""
    runs = [(row, run) for row in rows for run in row.runs]
    facts = [_facts(run) for _, run in runs]
    keys = list(dict.fromkeys(key for own in facts for key in own))
    shared = {key: facts[0].get(key, "–") for key in keys if len({own.get(key) for own in facts}) == 1}
    listed = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>"
        for key, value in {**shared, **(terms or {})}.items()
    )
    listed = f"<dl>{listed}</dl>" if listed else ""
    if len(runs) == 1:
        notes = "".join(f'<p class="note">{escape(note)}</p>' for note in runs[0][1].notes)
        return listed + notes
    own = [key for key in keys if key not in shared]
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in ["run", *own])
    lines = []
    for (row, run), found in zip(runs, facts, strict=True):
        data = "".join(f"<td>{escape(found.get(key, '–'))}</td>" for key in own)
        lines.append(f'<tr><th scope="row">{escape(row.name)}</th>{data}</tr>')
        wide = f'colspan="{len(own) + 1}" class="note"'
        lines += [f"<tr><td {wide}>{escape(note)}</td></tr>" for note in run.notes]
    return (
        f'{listed}<div class="scroll" tabindex="0" role="region" aria-label="Runs"><table class="runs">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _facts(run: RunResults) -> dict[str, str]:
    """All that is known of how a run was made, by dotted names."""
    facts = {
        "benchmark": run.benchmark,
        "seed": "" if run.seed is None else str(run.seed),
        "configuration": run.config_hash,
        "clips": str(run.n_clips),
        "scored": run.created,
        **dict(_flat(run.provenance, taken={"clips": "folder of clips"})),
    }
    return {key: value for key, value in facts.items() if value}


def _flat(
    facts: Mapping[str, Any], prefix: str = "", taken: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Nested facts as dotted names with text; `taken` renames those whose names are in use."""
    found: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = (taken or {}).get(key, key) if not prefix else key
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return found
