"""The study as a leaderboard of sync metrics: claims worded before anything was measured, and a run a metric and seed.

A metric's value of a fault is the mean over clips of the rank correlation of the fault's size with the clip's value, 1
where it gets worse with every size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovi_eval.common.provenance import configuration_hash, facts
from ovi_eval.results.files import ClipScores, MetricValue, RunResults
from ovi_lab.sync_metrics.analysis import OrderedSets, Sensitivity
from ovi_lab.sync_metrics.measuring import Measurements, SyncStudy, code

TITLE = "Which sync metric follows which fault"
ORDER = "timing_order"
"""The column of how many pairs of sets with moved events a metric ranks in the truth's order."""


def _on_both(fault: str, *pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {"metric": f"{short}/{fault}", "arm": a, "versus": b} for short in ("ball", "mouth") for a, b in pairs
    ]


CLAIMS: list[dict[str, Any]] = [
    {
        "name": "late sound: the distance at shift 0 against Sync-C",
        "comparisons": _on_both("late", ("sync_d0", "sync_c")),
        "supported": "Late sound is followed by the distance at shift 0 and less by Sync-C, which looks for the best "
        "shift: rank correlation {a} against {b} with the ball ({p}), {a2} against {b2} with the mouth ({p2}).",
        "unsupported": "That the distance at shift 0 follows late sound better than Sync-C is not shown on both "
        "worlds: rank "
        "correlation {a} against {b} with the ball ({p}), {a2} against {b2} with the mouth ({p2}).",
    },
    {
        "name": "late sound: the offset to the nearest onset against AV-Align",
        "comparisons": _on_both(
            "late", ("onset_offset", "av_align_javis"), ("onset_offset", "av_align_mova")
        ),
        "supported": "Late sound is followed by the offset to the nearest onset better than by AV-Align: rank "
        "correlation {a} "
        "against {b} and {b2} with the ball ({p}, {p2}), {a3} against {b3} and {b4} with the mouth ({p3}, {p4}).",
        "unsupported": "That the offset to the nearest onset follows late sound better than AV-Align is not "
        "shown on both "
        "worlds: rank correlation {a} against {b} and {b2} with the ball ({p}, {p2}), {a3} against {b3} and {b4} "
        "with the "
        "mouth ({p3}, {p4}).",
    },
    {
        "name": "a voice that does not fit: agreement against what measures time",
        "comparisons": _on_both("wrong_voice", ("agreement", "onset_f1"), ("agreement", "sync_d0")),
        "supported": "A pitch that does not fit the colour is followed by agreement alone: rank correlation {a} "
        "against {b} of "
        "onset F1 and {b2} of the distance at shift 0 with the ball ({p}, {p2}), {a3} against {b3} and {b4} with "
        "the mouth "
        "({p3}, {p4}).",
        "unsupported": "That agreement follows a pitch that does not fit the colour better than onset F1 and the "
        "distance at "
        "shift 0 is not shown on both worlds: rank correlation {a} against {b} and {b2} with the ball ({p}, "
        "{p2}), {a3} "
        "against {b3} and {b4} with the mouth ({p3}, {p4}).",
    },
    {
        "name": "jitter: the offset to the nearest onset against F1",
        "comparisons": _on_both("jitter", ("onset_offset", "onset_f1")),
        "supported": "Jitter is followed by the offset to the nearest onset better than by F1 within 75 ms: rank "
        "correlation {a} "
        "against {b} with the ball ({p}), {a2} against {b2} with the mouth ({p2}).",
        "unsupported": "That the offset to the nearest onset follows jitter better than F1 within 75 ms is not "
        "shown on both "
        "worlds: rank correlation {a} against {b} with the ball ({p}), {a2} against {b2} with the mouth ({p2}).",
    },
    {
        "name": "the order of sets: the distance at shift 0 against Sync-C",
        "comparisons": _on_both(ORDER, ("sync_d0", "sync_c")),
        "supported": "Sets with moved events are put in the order of the truth by the distance at shift 0 more "
        "often than by "
        "Sync-C: {a} of the pairs against {b} with the ball ({p}), {a2} against {b2} with the mouth ({p2}).",
        "unsupported": "That the distance at shift 0 puts sets with moved events in the order of the truth more "
        "often than "
        "Sync-C is not shown on both worlds: {a} of the pairs against {b} with the ball ({p}), {a2} against {b2} "
        "with the mouth "
        "({p2}).",
    },
]


def write_runs(
    asked: SyncStudy,
    found: Measurements,
    answers: Sequence[Sensitivity],
    orders: Mapping[str, Sequence[OrderedSets]],
) -> list[Path]:
    """A run for every metric and seed below `<folder>/metrics`: what the leaderboard is made of.

    Returns their folders.
    """
    judges = dict.fromkeys(answer.measured.judge.name for answer in answers)
    options = {
        "worlds": asked.worlds,
        "clips": asked.clips,
        "faults": {
            name: [fault.sizes for fault in asked.faults_of("mouth") if fault.name == name]
            for name in asked.faults
        },
        "codec": asked.codec,
    }
    provenance = {**facts(), "git": code()}
    folders = []
    for judge in judges:
        own = [answer for answer in answers if answer.measured.judge.name == judge]
        for seed in asked.seeds:
            clips, metrics = _columns(own, found, seed)
            for world, of_world in orders.items():
                for order in of_world:
                    if order.judge == judge:
                        metrics[f"{_short(own, world)}/{ORDER}"] = MetricValue(
                            order.by_seed[seed], asked.clips, "higher", kind="set",
                            title="pairs of sets with moved events in the truth's order",
                        )  # fmt: skip
            results = RunResults(
                name=judge,
                metrics=metrics,
                n_clips=len(clips),
                seed=seed,
                clips=clips,
                config_hash=configuration_hash({**options, "metric": judge, "seed": seed})[:12],
                provenance=provenance,
            )
            folder = asked.folder / "metrics" / judge / f"seed_{seed}"
            results.write(folder)
            folders.append(folder)
    return folders


def _short(answers: Sequence[Sensitivity], world: str) -> str:
    return next(answer.measured.short for answer in answers if answer.measured.world == world)


def _columns(
    answers: Sequence[Sensitivity], found: Measurements, seed: int
) -> tuple[list[ClipScores], dict[str, MetricValue]]:
    """The correlations of one metric's clips of a seed, and their means."""
    values: dict[str, dict[str, float | None]] = {}
    metrics: dict[str, MetricValue] = {}
    for world, ids in found.ids.items():
        for number, clip in ids:
            if number == seed:
                values[clip] = {}
        for answer in answers:
            m = answer.measured
            if m.world != world:
                continue
            key = f"{m.short}/{m.fault.name}"
            own = [
                (clip, rho)
                for (number, clip), rho in zip(ids, answer.rho_N.tolist(), strict=True)
                if number == seed
            ]
            held = [rho for _, rho in own if np.isfinite(rho)]
            for clip, rho in own:
                values[clip][key] = rho if np.isfinite(rho) else None
            metrics[key] = MetricValue(
                float(np.mean(held)) if held else None,
                len(held),
                "higher",
                coverage=len(held) / len(own),
                title=f"rank correlation with {m.fault.name.replace('_', ' ')}",
            )
    return [ClipScores(clip, row) for clip, row in values.items()], metrics
