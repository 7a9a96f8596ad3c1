"""What memory that a run leaves over buys: less of the forward pass computed a second time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ovi_lab.planning.job import Checkpointing
from ovi_lab.planning.memory import Memory
from ovi_lab.planning.training_planner import Choice, TrainingPlanner

CHOICES = (
    Checkpointing("none"),
    Checkpointing("matmul"),
    Checkpointing("attention"),
    Checkpointing("full", 3),
    Checkpointing("full", 2),
    Checkpointing("full"),
)
"""Of activation checkpointing. Where two compute as many products again, the first computes less of the rest."""


@dataclass(frozen=True)
class Offer:
    """A choice that fits, and its share of the requested one's computing."""

    choice: Choice
    memory: Memory
    work: float


def faster_choices(planner: TrainingPlanner, requested: Choice) -> Iterator[tuple[float, Choice]]:
    """Choices that compute less a second time than the requested one, the least first, with their share of its work."""
    base = planner.flops(requested).hardware
    found = [replace(requested, checkpointing=checkpointing) for checkpointing in CHOICES]
    shares = [(planner.flops(choice).hardware / base, number) for number, choice in enumerate(found)]
    for share, number in sorted(shares):
        if share < 1.0:
            yield share, found[number]


def offers(planner: TrainingPlanner, requested: Choice, memory: int, most: int = 3) -> list[Offer]:
    """What fits `memory` bytes a GPU and computes less, the quickest first."""
    found: list[Offer] = []
    for work, choice in faster_choices(planner, requested):
        if choice.checkpointing.choice == "full":
            continue  # of every n-th block: between the others, and each takes seconds to measure
        predicted = planner.memory(choice)
        if predicted.fits(memory):
            found.append(Offer(choice, predicted, work))
            if len(found) == most:
                break
    return found


def chosen(planner: TrainingPlanner, gpus: int, memory: int) -> tuple[Choice, Memory]:
    """What `activation_checkpointing=auto` is on GPUs of `memory` bytes: the least recomputation that fits.

    Everything recomputed where nothing else fits, or that does not either.
    """
    requested = planner.requested(gpus)
    everything = replace(requested, checkpointing=Checkpointing("full"))
    for _, choice in faster_choices(planner, everything):
        predicted = planner.memory(choice)
        if predicted.fits(memory):
            return choice, predicted
    return everything, planner.memory(everything)
