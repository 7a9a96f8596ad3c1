"""Rehearsals of every full-size experiment beside their plans; writes rehearsal.md.

    python benchmarks/rehearsal.py                      all, about half an hour of one CPU core
    python benchmarks/rehearsal.py --only stage3_fsdp2  one, the others from rehearsal.json
    python benchmarks/rehearsal.py --blocks 2 --out x   seconds each, without touching what is recorded

What was counted is kept in rehearsal.json, so that cases can be made one at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovi_eval.common.files import write_whole
from ovi_lab.common.sizes import GIB
from ovi_lab.rehearsal.allowed import of_training
from ovi_lab.rehearsal.library import Torch
from ovi_lab.rehearsal.page import Block, markdown
from ovi_lab.rehearsal.report import UNSEEN, inference_blocks
from ovi_lab.rehearsal.run import rehearse

HERE = Path(__file__).resolve().parent
LINES = 12
"""Of the lines with most bytes that are kept of a case."""


@dataclass(frozen=True)
class Case:
    """One rehearsal of training."""

    name: str
    title: str
    gpus: str
    overrides: Sequence[str]


STAGE3 = "experiment=ovi_11b_stage3"
CASES = (
    Case("stage1", "stage 1, ZeRO 2", "64x80GB", ["experiment=ovi_11b_stage1"]),
    Case("stage2", "stage 2, ZeRO 2", "64x80GB", ["experiment=ovi_11b_stage2"]),
    Case("stage1_fsdp2", "stage 1, FSDP2", "64x80GB", ["experiment=ovi_11b_stage1", "strategy=fsdp2"]),
    Case("stage3_ddp", "stage 3, DDP, with memory for it", "64x80GB", [STAGE3, "strategy=ddp"]),
    Case("stage3_zero1", "stage 3, ZeRO 1", "64x80GB", [STAGE3, "strategy=zero1"]),
    Case("stage3_zero2", "stage 3, ZeRO 2", "64x80GB", [STAGE3, "strategy=zero2"]),
    Case("stage3_zero2_offload", "stage 3, ZeRO 2, offload", "64x80GB", [STAGE3, "strategy=zero2_offload"]),
    Case("stage3", "stage 3, ZeRO 3", "64x80GB", [STAGE3]),
    Case("stage3_zero3_offload", "stage 3, ZeRO 3, offload", "64x80GB", [STAGE3, "strategy=zero3_offload"]),
    Case("stage3_fsdp2", "stage 3, FSDP2", "64x80GB", [STAGE3, "strategy=fsdp2"]),
    Case(
        "stage3_zero3_within",
        "stage 3, ZeRO 3, second copy in a node",
        "64x80GB",
        [STAGE3, "strategy.shard_within=8"],
    ),
    Case(
        "stage3_zero3_audio",
        "stage 3, ZeRO 3, audio tower kept",
        "64x80GB",
        [STAGE3, "strategy.keep_gathered=audio"],
    ),
    Case(
        "stage3_fsdp2_within",
        "stage 3, FSDP2 in a node, replicas between",
        "64x80GB",
        [STAGE3, "strategy=fsdp2", "strategy.shard_within=8"],
    ),
    Case(
        "stage3_fsdp2_audio",
        "stage 3, FSDP2, audio tower kept",
        "64x80GB",
        [STAGE3, "strategy=fsdp2", "strategy.keep_gathered=audio"],
    ),
    Case(
        "stage3_fsdp2_offload",
        "stage 3, FSDP2, offload",
        "64x80GB",
        [STAGE3, "strategy=fsdp2", "strategy.offload=true"],
    ),
    Case(
        "stage3_matmul",
        "stage 3, FSDP2, products kept",
        "64x80GB",
        [STAGE3, "strategy=fsdp2", "model.activation_checkpointing=matmul"],
    ),
    Case(
        "stage3_10s",
        "stage 3 at 10 s, ZeRO 3, 4 GPUs a clip",
        "64x80GB",
        ["experiment=ovi_11b_stage3_10s", "video=61x60x60", "audio=314"],
    ),
    Case("lora", "LoRA, one GPU", "1x80GB", ["experiment=ovi_lora"]),
    Case("partial", "fusion alone, one GPU", "1x80GB", ["experiment=ovi_partial"]),
)
INFERENCE = Case("inference", "sampling", "1x80GB", [STAGE3])


def few(overrides: Sequence[str], blocks: int | None) -> list[str]:
    """The overrides, with so many blocks; None: all."""
    return [*overrides, *([f"model.{m}.num_layers={blocks}" for m in ("video", "audio")] if blocks else [])]


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """What is recorded of a rehearsal: of training the second step."""
    if "steps" in found and "sections" not in found:
        step = found["steps"][1]
        record = {**step["record"], "lines": step["record"]["lines"][:LINES]}
        findings = of_training(found)
        return {**found, "steps": [{**step, "record": record}], "findings": findings}
    sections = {
        name: {**section, "record": {**section["record"], "lines": []}}
        for name, section in found["sections"].items()
    }
    return {**found, "sections": sections}


def _row(title: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    step, plan = found["steps"][0], found["plan"]
    rehearsed = found["most"]
    planned = max(plan["backward"], plan["step"])
    micro, record = found["rehearsed"], step["record"]
    kernels = sum(record["kernels"].get(kind, 0) for kind in ("product", "pointwise")) / micro
    moved = [record["moved"].get(kind, 0) / micro / 1e9 for kind in ("product", "pointwise", "collective")]
    return (
        title,
        str(found["blocks"]),
        *(f"{rehearsed / GIB:.1f}", f"{planned / GIB:.1f}", f"{planned / rehearsed:.3f}", f"{kernels:,.0f}"),
        *(f"{gb:,.0f}" for gb in moved), str(sum(record["waits"].values())),
    )  # fmt: skip


def page(results: Mapping[str, Mapping[str, Any]], version: str) -> str:
    """As Markdown."""
    columns = (
        "run on 64 GPUs of 80 GB, or as it says", "blocks", "rehearsed GiB", "plan GiB", "plan / rehearsed", "kernels",
        "products GB", "all other GB", "sent GB", "waits a step",
    )  # fmt: skip
    there = [case for case in CASES if case.name in results]
    rows = [_row(case.title, results[case.name]) for case in there]
    blocks = [
        Block(
            "Memory of a rank, kernels and bytes",
            (
                "Memory at the largest moment once there is an optimiser's state, by storages alive. Kernels and bytes "
                "are those of a micro-batch; what a step does once is shared over those run.",
                "Every row has the full width and as many blocks as it says; 30 are the whole model. The plan is "
                "judged at that depth: buckets, gathered parameters and what surrounds the blocks weigh most at few.",
                "`strategy=zero3_nvme` has no row: DeepSpeed writes to a disk what `zero3_offload` keeps in the host's "
                "memory, by asynchronous I/O that takes real pointers; on the GPU the two hold the same.",
            ),
            columns,
            rows,
        )
    ]
    for case in there:
        record = results[case.name]["steps"][0]["record"]
        waits = [f"{count} x {place}" for place, count in record["waits"].items()]
        blocks.append(
            Block(case.title, [*results[case.name]["findings"], *(f"waits: {line}" for line in waits)])
        )
    if "stage3_fsdp2" in results:
        lines = results["stage3_fsdp2"]["steps"][0]["record"]["lines"]
        shown = [(x["line"], x["kind"], f"{x['kernels']:,}", f"{x['bytes'] / 1e9:,.1f}") for x in lines]
        title = "Stage 3, FSDP2: most bytes by line, a step of two micro-batches"
        blocks.append(Block(title, (), ("line", "kind", "kernels", "GB"), shown))
    if INFERENCE.name in results:
        blocks += inference_blocks(results[INFERENCE.name])[0]
    head = (
        "# Rehearsals without a GPU\n\n`python benchmarks/rehearsal.py`, PyTorch "
        f"{version}; what is counted and how: [docs/rehearsal.md](../docs/rehearsal.md). {UNSEEN}\n\n"
    )
    return head + markdown(blocks)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    names = [case.name for case in (*CASES, INFERENCE)]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--blocks", type=int, help="default: all")
    parser.add_argument("--out", type=Path, default=HERE, help="folder, default: this one")
    arguments = parser.parse_args()
    stored = arguments.out / "rehearsal.json"
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.is_file() else {}
    for case in (*CASES, INFERENCE):
        if case.name in arguments.only:
            part = "inference" if case is INFERENCE else "training"
            found = kept(rehearse(part, case.gpus, few(case.overrides, arguments.blocks)))
            results[case.name] = {**found, "blocks": arguments.blocks or 30}
            write_whole(stored, json.dumps(results, indent=1))
    text = page(results, Torch.installed().version)
    print(text)
    write_whole(arguments.out / "rehearsal.md", text)


if __name__ == "__main__":
    main()
