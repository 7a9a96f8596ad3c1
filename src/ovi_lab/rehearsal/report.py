"""The report of a rehearsal: what was found, memory beside the plan, kernels and bytes by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovi_lab.common.sizes import gib
from ovi_lab.rehearsal.allowed import of_inference, of_samples, of_training
from ovi_lab.rehearsal.page import Block
from ovi_lab.rehearsal.record import LINES

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
        _memory(found),
        _alive(found),
        _kernels(found, plain),
        _waits(plain, logging),
        _lines(plain["record"], found["rehearsed"]),
    ], len(findings)


def inference_blocks(found: Found) -> tuple[list[Block], int]:
    """The blocks of rehearsed sampling, and how many findings it has."""
    findings = of_inference(found)
    rows = []
    for name, section in found["sections"].items():
        record = section["record"]
        kernels = [record["kernels"].get(kind, 0) for kind in ("product", "pointwise")]
        waits, copies = (sum(record[key].values()) for key in ("waits", "blocking_copies"))
        moved = sum(record["moved"].values()) / 1e9
        rows.append(
            (
                name,
                *(f"{n:,}" for n in kernels),
                f"{moved:,.1f}",
                gib(section["peak"]),
                str(waits),
                str(copies),
            )
        )
    columns = (
        "part",
        "products",
        "other kernels",
        "GB moved",
        "memory besides weights",
        "waits",
        "blocking copies",
    )
    steps = f"Solvers take {found['steps']} steps for 2 clips of 5 s, codecs a clip of 3 latent frames."
    return [
        Block("Sampling, codecs, text encoder", findings or ["nothing unexpected"]),
        Block("", (steps,), columns, rows),
    ], len(findings)


def _memory(found: Found) -> Block:
    plan, rows = found["plan"], [("weights, average and buffers once placed", gib(found["placed"]), "", "")]
    steps = found["steps"][1:]
    for moment, most, planned in (
        ("forward and backward", max(max(s["forward"], s["backward"]) for s in steps), plan["backward"]),
        ("optimiser's step", max(s["optimiser"] for s in steps), plan["step"]),
        ("most", found["most"], max(plan["backward"], plan["step"])),
    ):
        rows.append((moment, gib(most), gib(planned), _ratio(planned, most)))
    return Block("Memory of a rank", (), ("moment", "rehearsed", "ovi-plan", "plan / rehearsed"), rows)


def _alive(found: Found) -> Block:
    rows = [(line, gib(size)) for line, size in list(found["alive"].items())[:LINES]]
    return Block("Alive at the largest moment, by the line that made it", (), ("line", "memory"), rows)


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


def samples_blocks(found: Found) -> tuple[list[Block], int]:
    """The blocks of training that samples after a step, and how many findings it has."""
    findings = of_samples(found)
    rows = []
    if "steps" in found:
        record = found["steps"][-1]["record"]
        rows = [(place, str(count)) for place, count in record["waits"].items()]
        rows += [(f"copy of {place}", str(count)) for place, count in record["blocking_copies"].items()]
    told = findings or ["nothing unexpected"]
    return [Block("Samples in training: a step and two clips", told, ("waits at", "times"), rows)], len(
        findings
    )


def measured_blocks(found: Found) -> tuple[list[Block], int]:
    """The blocks of what was measured on a GPU, by part, and how much of it failed."""
    parts = {name.removeprefix("measured "): facts for name, facts in found.items()}
    inference = parts.pop("inference", {})
    sections = inference.get("sections", {})
    failed = [f"{name}: {facts['failed']}" for name, facts in parts.items() if "failed" in facts]
    failed += [
        f"{n}: {s['failed']}" for n, s in {"inference": inference, **sections}.items() if "failed" in s
    ]
    runs = [facts for facts in parts.values() if "failed" not in facts]
    rows, waits = [], []
    for run in runs:
        mfu = "" if run["mfu"] is None else f"{run['mfu']:.1%}"
        memory = [gib(run[key]) for key in ("peak_bytes", "reserved_bytes", "planned_bytes")]
        blocks = ", ".join([str(run["blocks"]), *(f"not {n}" for n in run["too_many"])])
        speed = (f"{1e3 * run['seconds']:,.0f}", f"{run['tokens_per_s']:,.0f}", mfu)
        rows.append(
            (run["checkpointing"], blocks, *speed, *memory, _ratio(run["planned_bytes"], run["peak_bytes"]))
        )
        waits += [(place, run["checkpointing"], str(count)) for place, count in run["waits"].items()]
    columns = (
        "activation checkpointing", "blocks", "step ms", "tokens/s", "MFU", "allocated", "reserved", "ovi-plan",
        "plan / allocated",
    )  # fmt: skip
    drawn = [Block("Failed", failed)] if failed else []
    drawn.append(Block("Training", _what_was_trained(runs), columns, rows))
    rows = []
    for name, section in sections.items():
        if "failed" not in section:
            seconds = f"{1e3 * section['seconds']:,.1f}"
            rows.append((name, seconds, gib(section["peak"]), str(sum(section["waits"].values()))))
            waits += [(place, name, str(count)) for place, count in section["waits"].items()]
    of_parts = ("part", "ms", "memory besides weights", "waits")
    drawn.append(Block("Sampling, codecs, text encoder", (), of_parts, rows))
    drawn.append(Block("Where the host waits for the GPU", (), ("place", "when", "times"), waits))
    return drawn, len(failed)


def _what_was_trained(runs: Sequence[Found]) -> list[str]:
    if not runs:
        return []
    first = runs[0]
    return [
        f"{first['gpu']}, {gib(first['gpu_bytes'])}, PyTorch {first['torch']}",
        f"{first['micro']} clips of {first['clip']}, one process, optimiser step included; waits are those of a step "
        "that logs",
    ]


PARTS = {"training": training_blocks, "inference": inference_blocks, "samples": samples_blocks}
"""What can be rehearsed, and what draws it."""
