"""Waits of the host for the GPU that are meant, and what counts as found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

OF_A_STEP = {"callbacks/guard.py": 1}
"""By file: the guard looks at every step before the optimiser does."""
OF_A_LOGGED_STEP = {
    **OF_A_STEP,
    "callbacks/training_progress.py": 1,  # the loss in the line on the terminal
    "callbacks/throughput.py": 2,  # the time of a step is that of the GPU; sums over the processes
    "callbacks/csv_log.py": 64,  # numbers become text once the GPU has been waited for
}


def unexpected(waits: Mapping[str, int], allowed: Mapping[str, int]) -> dict[str, int]:
    """Waits beyond those that are allowed, by place."""
    left = dict(allowed)
    found = {}
    for place, count in waits.items():
        file = re.sub(r":\d+.*", "", place.partition(" at ")[2])
        extra = count - left.get(file, 0)
        left[file] = max(0, left.get(file, 0) - count)
        if extra > 0:
            found[place] = extra
    return found


def drifting(wide: Iterable[str]) -> list[str]:
    """Products in float32 or wider; fused attention's backward pass has its row sums in float32, always."""
    return [place for place in wide if not place.startswith("_scaled_dot_product")]


def of_training(training: Mapping[str, Any]) -> list[str]:
    """What a rehearsed training run shows that a run on a GPU should not have, a line each."""
    if "failed" in training:
        return [f"it stopped: {training['failed']}"]
    found = []
    for step in training["steps"][1:]:
        kind = "a step that logs" if step["logs"] else "a step"
        allowed = OF_A_LOGGED_STEP if step["logs"] else OF_A_STEP
        record = step["record"]
        waits = unexpected(record["waits"], allowed)
        found += [f"{kind} waits for the GPU: {count} x {place}" for place, count in waits.items()]
        if not step["logs"]:
            copies = record["blocking_copies"].items()
            found += [f"{kind} has a blocking copy: {count} x {place}" for place, count in copies]
            found += [f"{kind} multiplies in float32: {place}" for place in drifting(record["wide_products"])]
    missing = training["without_gradient"]
    if missing:
        found.append(f"{len(missing)} trained parameters have no gradient, the first {missing[0]}")
    return list(dict.fromkeys(found))
