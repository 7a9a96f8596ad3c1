"""The report of a rehearsal: what was found, memory beside the plan, kernels and bytes by line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovi_lab.common.sizes import gib
from ovi_lab.rehearsal.allowed import of_training
from ovi_lab.rehearsal.page import Block

UNSEEN = (
    "Not seen: which kernel the libraries choose and how fast it is, NCCL and the network, races between streams, the "
    "allocator's fragmentation, and numbers (a NaN is a shape like any other)."
)
Found = Mapping[str, Any]


def training_blocks(found: Found) -> tuple[list[Block], int]:
    """The blocks of a rehearsed training run, and how many findings it has."""
    findings = of_training(found)
    told = findings or ["nothing unexpected"]
    if "failed" in found:
        return [Block("Training", told)], 1
    _, plain, logging = found["steps"]
    facts = [
        f"{found['parameters']:,} parameters, {found['trained']:,} trained; {found['micro']} clips of {found['clip']}; "
        f"{found['rehearsed']} of {found['accumulated']} micro-batches of a step",
        f"gradients in {', '.join(found['gradient_types'])}",
    ]
    return [
        Block("Found", told),
        Block("Training", facts),
        _memory(found, plain),
        _kernels(found, plain),
        _waits(plain, logging),
        _lines(plain["record"], found["rehearsed"]),
    ], len(findings)


def _memory(found: Found, step: Found) -> Block:
    plan = found["plan"]
    rows = [
        ("weights, average and buffers once placed", gib(found["placed"]), "", ""),
    ]
    pass_most = max(step["forward"], step["backward"])
    for moment, most, planned in (
        ("forward and backward", pass_most, plan["backward"]),
        ("optimiser's step", step["optimiser"], plan["step"]),
        ("most", max(pass_most, step["optimiser"]), max(plan["backward"], plan["step"])),
    ):
        rows.append((moment, gib(most), gib(planned), _ratio(planned, most)))
    return Block("Memory of a rank", (), ("moment", "rehearsed", "ovi-plan", "plan / rehearsed"), rows)


def _kernels(found: Found, step: Found) -> Block:
    record, micro = step["record"], found["rehearsed"]
    rows = []
    for kind, name in (
        ("product", "matrix products, attention, convolutions"),
        ("pointwise", "all other kernels"),
    ):
        rows.append(
            (name, f"{record['kernels'].get(kind, 0):,}", f"{record['moved'].get(kind, 0) / 1e9:,.0f}")
        )
    total, moved = sum(record["kernels"].values()), sum(record["moved"].values())
    rows.append(("sum", f"{total:,}", f"{moved / 1e9:,.0f}"))
    return Block(f"A step of {micro} micro-batches", (), ("kernels", "number", "GB read and written"), rows)


def _waits(plain: Found, logging: Found | None) -> Block:
    rows = []
    for name, step in (("a step", plain), ("a step that logs", logging)):
        if step is None:
            continue
        record = step["record"]
        rows += [(place, name, str(count)) for place, count in record["waits"].items()]
        rows += [(f"copy of {place}", name, str(count)) for place, count in record["blocking_copies"].items()]
    return Block("Where the host waits for the GPU", (), ("place", "when", "times"), rows)


def _lines(record: Found, micro: int) -> Block:
    rows = [
        (line["line"], line["kind"], f"{line['kernels']:,}", f"{line['bytes'] / 1e9:,.1f}")
        for line in record["lines"]
    ]
    return Block("Most bytes by line", (), ("line", "kind", "kernels", "GB"), rows)


def _ratio(plan: int, rehearsed: int) -> str:
    return f"{plan / rehearsed:.3f}" if rehearsed else ""
