"""The plan in words and tables, and the refusal of what cannot fit."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Column, Table

from ovi_lab.common.sizes import DRIVER, GIB, MARGIN, gib
from ovi_lab.errors import UserError
from ovi_lab.planning.clip_shape import ClipShape
from ovi_lab.planning.cluster import Cluster
from ovi_lab.planning.interruptions import ASSUMPTION, STORAGE, Interruptions
from ovi_lab.planning.job import TrainingJob
from ovi_lab.planning.memory import Memory
from ovi_lab.planning.spare_memory import chosen, offers
from ovi_lab.planning.time import ASSUMPTIONS, StepTime
from ovi_lab.planning.training_planner import Choice, TrainingPlanner


def check_fits(config: DictConfig, gpus: int, memory: int, clip: ClipShape | None = None) -> None:
    """Refuses a run that its GPUs have no memory for, before anything is built.

    Args:
        config: as composed for `ovi_lab.train`.
        gpus: of all machines.
        memory: bytes of each.
        clip: the shape of a clip's latents; None: as the configuration says.

    Raises:
        UserError: what is needed, what there is, and what to change; or the configuration cannot be planned.
    """
    planner = TrainingPlanner(TrainingJob(config, clip))
    requested, predicted = _requested(planner, gpus, memory)
    if predicted.fits(memory):
        return
    cluster = Cluster(gpus, memory, None, False)
    need = (
        f"strategy={requested.sharding.file} on {gpus} GPU{'s' * (gpus > 1)} needs about {gib(_needed(predicted))} of "
        f"each, and they have {gib(memory)}"
    )
    found = planner.what_fits(requested, memory)
    if found is None:
        raise UserError(f"{need}: nothing that planning knows fits; use larger GPUs or a smaller model")
    choice, takes = found
    raise UserError(
        f"{need}: {planner.typed(choice, requested, cluster)} takes {gib(_needed(takes))} and fits"
    )


def _requested(planner: TrainingPlanner, gpus: int, memory: int) -> tuple[Choice, Memory]:
    """What the configuration says, with what it leaves to the GPUs' memory."""
    if planner.job.chooses:
        return chosen(planner, gpus, memory)
    requested = planner.requested(gpus)
    return requested, planner.memory(requested)


def _needed(memory: Memory) -> int:
    """What a GPU must have."""
    return int(memory.total * MARGIN) + DRIVER


def print_plan(
    console: Console,
    planner: TrainingPlanner,
    cluster: Cluster,
    efficiency: float,
    price: float | None,
    storage: float = STORAGE,
) -> int:
    """Parameters, memory, time, and what to change where it does not fit; 0 where it fits, else 1."""
    requested, predicted = _requested(planner, cluster.count, cluster.memory)
    console.print(_parameters(planner))
    console.print(_memory(predicted, requested, cluster))
    fits = predicted.fits(cluster.memory)
    need = f"{gib(_needed(predicted))} of {gib(cluster.memory)}"
    console.print(f"[bold {'green' if fits else 'red'}]{'Fits' if fits else 'Does not fit'}[/]: {need}.")
    console.print(
        f"[dim]{MARGIN:g} x the largest moment + {gib(DRIVER)} for driver, kernels and allocator.[/]\n"
    )
    choice = requested
    if not fits:
        found = planner.what_fits(requested, cluster.memory)
        if found is None:
            console.print("[bold]Nothing that planning knows fits[/]: larger GPUs, or a smaller model.")
            return 1
        choice, takes = found
        words = planner.typed(choice, requested, cluster)
        console.print(f"[bold]Least drastic change that fits: {words}[/] ({gib(_needed(takes))}).\n")
    time = planner.time(choice, cluster, efficiency)
    if time is None:
        console.print(f"No GPU of {gib(cluster.memory)} is in the table: name one for times, as gpus=8xH100.")
    else:
        interruptions = Interruptions.of(planner, choice, time, storage)
        table = _time(planner, choice, cluster, time, price)
        for row in interruptions.rows():
            table.add_row(*row)
        console.print(table)
        console.print(interruptions.advice(), highlight=False)
        _print_assumptions(console, cluster, efficiency)
        console.print(f"[dim]{ASSUMPTION.format(storage=storage)}[/]", highlight=False)
    if fits:
        _print_spare(console, planner, requested, cluster, efficiency)
    return 0 if fits else 1


def _print_spare(
    console: Console, planner: TrainingPlanner, requested: Choice, cluster: Cluster, efficiency: float
) -> None:
    """What the memory that is left over buys, where it buys anything."""
    choice = requested.checkpointing
    if planner.job.chooses:
        every = f" model.checkpoint_every={choice.every}" if choice.every > 1 else ""
        console.print(
            f"\nmodel.activation_checkpointing=auto is [bold]{choice.choice}{every}[/] on these GPUs.",
            highlight=False,
        )
        return
    found = offers(planner, requested, cluster.memory)
    if not found:
        return
    now = planner.time(requested, cluster, efficiency)
    table = _table("What spare memory buys", "Change", "Needed", "Step", "Time")
    for offer in found:
        time = planner.time(offer.choice, cluster, efficiency)
        change = (
            f"{time.total / now.total - 1:+.0%}"
            if time and now
            else f"{offer.work - 1:+.0%} of the computing"
        )
        words = planner.typed(offer.choice, requested, cluster)
        table.add_row(words, gib(_needed(offer.memory)), _seconds(time.total) if time else "", change)
    console.print(table)
    console.print("[dim]model.activation_checkpointing=auto takes the first that fits when a run starts.[/]")


def _parameters(planner: TrainingPlanner) -> Table:
    table = _table("Parameters", "Part", "All", "Trained")
    job = planner.job
    groups: dict[str, list[Any]] = {"video tower": [], "audio tower": [], "fusion": []}
    for name, parameter in job.model(job.checkpointing).named_parameters():
        groups["fusion" if "_fusion" in name else f"{name[:5]} tower"].append(parameter)
    groups["text encoder"] = list(job.text.trained.values())
    for name, parameters in groups.items():
        if parameters:
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            table.add_row(name, f"{sum(p.numel() for p in parameters):,}", f"{trained:,}")
    counts = job.counts
    table.add_row("sum", f"{counts.total:,}", f"{counts.trained:,}", style="bold")
    return table


def _memory(memory: Memory, choice: Choice, cluster: Cluster) -> Table:
    title = f"Memory of each GPU, {choice.sharding.file} on {cluster}"
    table = _table(title, "Part", "Forward and backward", "Optimiser's step")
    for part in dict.fromkeys((*memory.backward, *memory.step)):
        cells = (gib(parts[part]) if part in parts else "" for parts in (memory.backward, memory.step))
        table.add_row(part, *cells)
    table.add_row("sum", *(gib(sum(p.values())) for p in (memory.backward, memory.step)), style="bold")
    for part, size in memory.elsewhere.items():
        table.add_row(f"[dim]{part}[/]", f"[dim]{gib(size)}[/]", f"[dim]{gib(size)}[/]")
    return table


def _time(
    planner: TrainingPlanner, choice: Choice, cluster: Cluster, time: StepTime, price: float | None
) -> Table:
    job, batch, flops = planner.job, planner.batch(choice), planner.flops(choice)
    on = cluster.of(choice.gpus)
    table = _table(f"Time on {on.count} x {on.gpu.name if on.gpu else ''}", "What", "")
    tokens = sum(job.tokens.values())
    micro = f"{batch.micro} of {job.clip}"
    accumulated = f"{batch.accumulate} x {batch.places} x {batch.micro}"
    hours = time.total * job.steps / 3600
    used = flops.model * batch.accumulate * batch.places / time.total
    rows = [
        ("clips of a process and pass", micro),
        ("clips of a step: accumulated x processes x pass", f"{batch.clips:,} = {accumulated}"),
        ("tokens of a step", f"{batch.clips * tokens:,}"),
        ("model FLOPs of a clip", f"{flops.model / batch.micro / 1e12:,.1f} T"),
        ("  and recomputed", f"{(flops.hardware - flops.model) / batch.micro / 1e12:,.1f} T"),
        ("step", _seconds(time.total)),
        ("  computing", _seconds(time.compute)),
        ("  waiting for other GPUs", _seconds(time.exposed)),
        ("  optimiser", _seconds(time.optimiser)),
    ]
    if time.offload:
        rows.append(("  waiting for host memory or disk", _seconds(time.offload)))
    rows += [
        ("tokens a second", f"{batch.clips * tokens / time.total:,.0f}"),
        ("clips a second", f"{batch.clips / time.total:,.2f}"),
    ]
    if on.gpu is not None:
        rows.append(("MFU", f"{used / (on.count * on.gpu.tflops * 1e12):.1%}"))
    rows += [
        ("steps of the run", f"{job.steps:,}"),
        ("clips of the run", f"{batch.clips * job.steps:,}"),
        ("whole run", f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:,.1f} hours"),
        ("GPU hours", f"{hours * on.count:,.0f}"),
    ]
    if price is not None:
        rows.append((f"cost at {price:g} a GPU hour", f"{hours * on.count * price:,.0f}"))
    for row in rows:
        table.add_row(*row)
    return table


def _print_assumptions(console: Console, cluster: Cluster, efficiency: float) -> None:
    gpu = cluster.gpu
    if gpu is None:
        return
    stands = (
        ""
        if cluster.named
        else f" (taken as the kind of GPUs of {cluster.memory / GIB:g} GB; name another: gpus=8xH100)"
    )
    console.print(
        f"[dim]Assumed: {efficiency:.0%} of {gpu.name}'s {gpu.tflops:g} TFLOP/s{stands}; {gpu.source}.",
        highlight=False,
    )
    for line in ASSUMPTIONS:
        console.print(f"[dim]{line}[/]", highlight=False)


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{1e3 * value:,.1f} ms"


def _table(title: str, first: str, *numbers: str) -> Table:
    """A table whose columns but the first are aligned to the right."""
    columns = [Column(name, justify="right") for name in numbers]
    return Table(first, *columns, title=title, title_justify="left", title_style="bold")
