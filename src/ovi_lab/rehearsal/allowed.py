"""Waits of the host for the GPU that are meant, and what counts as found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

OF_A_STEP = {"callbacks/guard.py": 1}
"""By file: the guard looks at every step before the optimiser does."""
OF_A_LOGGED_STEP = {
    **OF_A_STEP,
    "tasks/step_log.py": 1,  # all numbers of the step together
    "callbacks/throughput.py": 2,  # the time of a step is that of the GPU; sums over the processes
}
COPIED_IN_A_LOGGED_STEP = {"callbacks/throughput.py": 1}
"""What is summed over the processes."""
_LIBRARIES = ("deepspeed/", "torch/nn/parallel/")
"""Whose waits are their own: no line here decides them. DDP arranges its buckets anew in the second step."""
_ASKING = "strategies/zero_shares.py"
"""But where lines here ask DeepSpeed for what a process holds, its waits are theirs."""


def _is_librarys(place: str) -> bool:
    """Whether a library waits in work that is its own."""
    where = place.partition(" at ")[2]
    return not where.startswith(_ASKING) and any(library in where for library in _LIBRARIES)


def unexpected(waits: Mapping[str, int], allowed: Mapping[str, int]) -> dict[str, int]:
    """Waits beyond those that are allowed, by place."""
    left = dict(allowed)
    found = {}
    for place, count in waits.items():
        if _is_librarys(place):
            continue
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
        copied = COPIED_IN_A_LOGGED_STEP if step["logs"] else {}
        copies = unexpected(record["blocking_copies"], copied)
        found += [f"{kind} has a blocking copy: {count} x {place}" for place, count in copies.items()]
        if not step["logs"]:
            found += [f"{kind} multiplies in float32: {place}" for place in drifting(record["wide_products"])]
    missing = training["without_gradient"]
    if missing:
        found.append(f"{len(missing)} trained parameters have no gradient, the first {missing[0]}")
    return list(dict.fromkeys(found))


COPIED_IN_A_SAMPLED_STEP = {
    **COPIED_IN_A_LOGGED_STEP,
    "text/learned.py": 6,  # words of the captions, and of none
    "models/embeddings.py": 2,
    "flow/unipc.py": 2,
    "callbacks/joint_sampling.py": 4,  # the latents of two clips, of which the first process decodes all
    "sampling/pipeline.py": 2,
    "codecs/wan22.py": 2,  # latents in, frames out
    "codecs/mmaudio.py": 2,
}
"""Of two clips; a step that samples waits nowhere else than one that logs."""


def of_samples(samples: Mapping[str, Any]) -> list[str]:
    """What training that samples shows that it should not, a line each."""
    if "failed" in samples:
        return [f"sampling in training stopped: {samples['failed']}"]
    record, kind = samples["steps"][-1]["record"], "a step that samples"
    waits = unexpected(record["waits"], OF_A_LOGGED_STEP)
    copies = unexpected(record["blocking_copies"], COPIED_IN_A_SAMPLED_STEP)
    return [
        *(f"{kind} waits for the GPU: {count} x {place}" for place, count in waits.items()),
        *(f"{kind} has a blocking copy: {count} x {place}" for place, count in copies.items()),
    ]


IN_SAMPLING: dict[str, int] = {}
"""None: what a solver computes of its schedule, it computes on the host."""

COPIED_IN_SAMPLING = {"flow/unipc.py": 2, "flow/solvers.py": 4, "models/embeddings.py": 6, "text/umt5.py": 2}
"""For each modality times, of DPM++ and Euler sigmas; which keys of the texts are padding; tokens and their mask."""


def of_inference(inference: Mapping[str, Any]) -> list[str]:
    """What the rehearsed parts of sampling show that they should not, a line each."""
    found = []
    for name, section in inference["sections"].items():
        if "failed" in section:
            found.append(f"{name} stopped: {section['failed']}")
        waits = unexpected(section["record"]["waits"], IN_SAMPLING)
        found += [f"{name} waits for the GPU: {count} x {place}" for place, count in waits.items()]
        copies = unexpected(section["record"]["blocking_copies"], COPIED_IN_SAMPLING)
        found += [f"{name} has a blocking copy: {count} x {place}" for place, count in copies.items()]
    return found
