"""The study's results on disk: leaderboard of metrics, all numbers, report as Markdown and as one page, figure.

<folder>/report/results.json, leaderboard.md, leaderboard.html, figure.png      as of every study
<folder>/report/sensitivity.json                                                every number of every metric and fault
<folder>/report/report.md, report.html, curves.png
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ovi_eval.common.files import write_whole
from ovi_eval.ranking.leaderboard import Leaderboard, build_leaderboard
from ovi_eval.report import write_all
from ovi_eval.report.html.escaping import escaping_environment
from ovi_lab.common.progress import progress
from ovi_lab.sync_metrics import curves
from ovi_lab.sync_metrics.analysis import (
    Contradiction,
    OrderedSets,
    Sensitivity,
    contradictions,
    ordered_sets,
    sensitivity,
)
from ovi_lab.sync_metrics.claims import CLAIMS, TITLE, write_runs
from ovi_lab.sync_metrics.faults import FAULTS
from ovi_lab.sync_metrics.measuring import Measurements, SyncStudy, code, measure
from ovi_lab.sync_metrics.tables import Table, markdown, tables

SCHEMA = "ovi_lab.sync_metrics/1"


def run(asked: SyncStudy) -> tuple[Path, Leaderboard]:
    """Measure what is not measured yet, and write the report; returns its folder and the leaderboard.

    Raises:
        UserError: something cannot be written, or what lies there is no result of this study.
    """
    found = measure(asked)
    answers = [sensitivity(m) for m in progress(found.all, "metrics by fault", len(found.all))]
    orders: dict[str, list[OrderedSets]] = {}
    for world, ids in found.ids.items():
        names = list(dict.fromkeys(m.judge.name for m in found.of(world)))
        asks = progress(names, f"order of sets, {world}", len(names))
        given = [ordered_sets(found.of(world, name), [seed for seed, _ in ids]) for name in asks]
        orders[world] = [order for order in given if order is not None]
    against = {world: contradictions(own) for world, own in orders.items()}
    board = build_leaderboard(
        write_runs(asked, found, answers, orders), title=TITLE, message=about(asked), claims=CLAIMS
    )
    folder = asked.folder / "report"
    write_all(board, folder)
    write_whole(
        folder / "sensitivity.json",
        json.dumps(as_data(asked, found, answers, orders, against), separators=(",", ":"), allow_nan=False)
        + "\n",
    )
    picture = curves.png(answers)
    write_whole(folder / "curves.png", picture)
    made = tables(found, answers, orders, against)
    write_whole(folder / "report.md", page_of_text(asked, board, made))
    write_whole(folder / "report.html", page(asked, board, made, picture))
    return folder, board


def about(asked: SyncStudy) -> str:
    """One sentence on what was measured."""
    form = "through the world's codec" if asked.codec else "as the worlds make them"
    seeds = f"{len(asked.seeds)} {'seed' if len(asked.seeds) == 1 else 'seeds'}"
    return (
        f"{asked.clips} clips of each of {seeds} of {' and '.join(asked.worlds)}, {form}, each without a fault "
        f"and with "
        f"every size of {len(asked.faults)} {'fault' if len(asked.faults) == 1 else 'faults'} whose truth is known."
    )


def page_of_text(asked: SyncStudy, board: Leaderboard, made: Sequence[Table]) -> str:
    """The report as Markdown."""
    claims = "\n".join(
        f"- **{finding.outcome.replace('_', ' ').capitalize()}**: {finding.text}"
        for finding in board.findings
    )
    parts = [f"# {TITLE}", about(asked), claims, "![what each metric sees](curves.png)", *map(markdown, made)]
    parts.append(
        "All numbers: [sensitivity.json](sensitivity.json). The metrics ranked: [leaderboard.html](leaderboard.html)."
    )
    return "\n\n".join(parts) + "\n"


def page(asked: SyncStudy, board: Leaderboard, made: Sequence[Table], picture: bytes) -> str:
    """The report as one page that needs no network."""
    figure = Markup(f"data:image/png;base64,{base64.b64encode(picture).decode()}")  # letters and digits alone
    environment = escaping_environment(
        lambda name: files(__package__).joinpath(name).read_text(encoding="utf-8")
    )
    environment.filters["plain"] = _without_marks
    return environment.get_template("report.html").render(
        title=TITLE, about=about(asked), findings=board.findings, tables=made, figure=figure
    )


def _without_marks(text: str) -> str:
    """Markdown's marks of code and stress left out; an escaped star stays one."""
    return re.sub(r"`|(?<!\\)\*(?=\w)|(?<=\w)\*(?=[\s:.,])", "", text).replace("\\*", "*")


def as_data(
    asked: SyncStudy,
    found: Measurements,
    answers: Sequence[Sensitivity],
    orders: Mapping[str, Sequence[OrderedSets]],
    against: Mapping[str, Sequence[Contradiction]],
) -> dict[str, Any]:
    """Every number as plain data; null where there is none."""
    return {
        "schema": SCHEMA,
        "git": code(),
        "worlds": list(asked.worlds),
        "seeds": list(asked.seeds),
        "clips_of_each_seed": asked.clips,
        "codec": asked.codec,
        "faults": {name: {"what": FAULTS[name].what, "unit": FAULTS[name].unit} for name in asked.faults},
        "answers": [_answer(answer) for answer in answers],
        "orders": {
            world: [
                {
                    "metric": order.judge,
                    "pairs": len(order.pairs),
                    "share": order.share,
                    "by_seed": order.by_seed,
                    "surely_right": int((order.order_P == 1).sum()),
                    "surely_wrong": int((order.order_P == -1).sum()),
                }
                for order in own
            ]
            for world, own in orders.items()
        },
        "contradictions": {world: [asdict(one) for one in own] for world, own in against.items()},
        "absent": found.absent,
        "silent": found.silent,
    }


def _answer(answer: Sensitivity) -> dict[str, Any]:
    m = answer.measured
    return {
        "world": m.world,
        "metric": m.judge.name,
        "fault": m.fault.name,
        "sizes": list(m.sizes),
        "moved_ms": _plain(m.moved_ms[1:]),
        "means": _plain(np.nanmean(m.values_KN, axis=1)),
        "coverage": answer.coverage,
        "rank_correlation": answer.rho,
        "interval": None if answer.interval is None else asdict(answer.interval),
        "rank_correlation_of_means": answer.rho_of_means,
        "interval_of_means": list(answer.interval_of_means),
        "seen_by_independent_sets": _plain(answer.independent),
        "seen_by_the_same_clips": _plain(answer.paired),
        "blind": answer.blind,
        "better_again_after": [0.0 if step == 0 else m.sizes[step - 1] for step in answer.better_again],
    }


def _plain(values: Any) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in np.asarray(values, dtype=float).tolist()]
