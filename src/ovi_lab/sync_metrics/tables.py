"""The tables of the report: the smallest fault seen, correlations, order of sets, contradictions, what is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovi_eval.common.number_format import format_number
from ovi_lab.sync_metrics.analysis import SET, Contradiction, OrderedSets, Sensitivity
from ovi_lab.sync_metrics.faults import PlantedFault
from ovi_lab.sync_metrics.measuring import Measurements

MOST_CONTRADICTIONS = 8
FLOOR = "other_as_many"
"""The fault whose largest size is the far end of a metric's way."""
COVERED = 0.9
"""Below this share of clips with a value, a cell is marked."""


@dataclass(frozen=True)
class Table:
    """A table with what it says above and below it."""

    heading: str
    above: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    below: str = ""


def words(name: str) -> str:
    """A name as text: `wrong voice`."""
    return name.replace("_", " ")


def of_world(answers: Sequence[Sensitivity], world: str) -> tuple[list[str], list[PlantedFault]]:
    """The metrics and the faults of a world, in their order."""
    own = [answer.measured for answer in answers if answer.measured.world == world]
    return list(dict.fromkeys(m.judge.name for m in own)), list({m.fault.name: m.fault for m in own}.values())


def _grid(answers: Sequence[Sensitivity], world: str) -> dict[tuple[str, str], Sensitivity]:
    return {
        (answer.measured.judge.name, answer.measured.fault.name): answer
        for answer in answers
        if answer.measured.world == world
    }


def smallest(answer: Sensitivity) -> str:
    """The smallest size seen with independent sets; of the same clips in brackets, where it is another one."""

    def text(shares: np.ndarray) -> str:
        seen = answer.seen(shares)
        if not seen:
            return "blind"
        after = answer.measured.sizes[answer.measured.sizes.index(seen[0]) :]
        lost = [size for size in after if size not in seen]
        return f"{seen[0]:g}" + (f", not {', '.join(f'{size:g}' for size in lost)}" if lost else "")

    alone, paired = text(answer.independent), text(answer.paired)
    if wrong := answer.wrong():
        at = f"wrong way at {', '.join(f'{size:g}' for size in wrong)}"
        alone = at if answer.blind else f"{alone}, {at}"
    mark = " †" if answer.coverage < COVERED else ""
    return (alone if alone == paired else f"{alone} ({paired})") + mark


def smallest_table(answers: Sequence[Sensitivity], world: str) -> Table:
    """The smallest fault that each metric sees."""
    judges, faults = of_world(answers, world)
    grid = _grid(answers, world)
    heads = ("metric", *(f"{words(fault.name)}, {fault.unit}" for fault in faults))
    rows = tuple((f"`{judge}`", *(smallest(grid[judge, fault.name]) for fault in faults)) for judge in judges)
    return Table(
        f"{world}: the smallest fault seen",
        f"Smallest planted size at which 95 % of pairs of independent sets of {SET} clips rank the faulty set "
        f"below the "
        "clean one; in brackets that for the same clips with and without the fault, where it differs. *blind*: at no "
        "size.",
        heads,
        rows,
        "*not*: larger sizes that are not seen again. *wrong way*: sizes at which 95 % of the sets rank the faulty one "
        "higher. †: at some size fewer than 9 tenths of the clips have a value.",
    )


def correlation_table(answers: Sequence[Sensitivity], world: str) -> Table:
    """Rank correlations, with intervals over clips."""
    judges, faults = of_world(answers, world)
    grid = _grid(answers, world)

    def cell(answer: Sensitivity) -> str:
        text = format_number(answer.rho, 2)
        if answer.interval is not None:
            text += f" [{format_number(answer.interval.low, 2)}, {format_number(answer.interval.high, 2)}]"
        text += f"; {format_number(answer.rho_of_means, 2)}"
        if answer.better_again:
            text += "*"
        return text

    return Table(
        f"{world}: rank correlation with the fault's size",
        "Spearman's correlation, 1 where the metric gets worse with every size: mean over clips of each clip's "
        "own, 95 % "
        "interval over clips; then that of the set's mean.",
        ("metric", *(words(fault.name) for fault in faults)),
        tuple((f"`{judge}`", *(cell(grid[judge, fault.name]) for fault in faults)) for judge in judges),
        "\\*: not monotone; from some size to the next the metric surely gets better "
        "(sign flips over clips, p < 0.01).",
    )


def extent_table(answers: Sequence[Sensitivity], world: str) -> Table | None:
    """How far each metric falls at a fault's largest size, of the way that another clip's sound makes it fall.

    None where that fault was not planted.
    """
    judges, faults = of_world(answers, world)
    if FLOOR not in [fault.name for fault in faults]:
        return None
    grid = _grid(answers, world)

    def cell(answer: Sensitivity, floor: Sensitivity) -> str:
        share = answer.extent(floor)
        return "–" if share is None else format_number(share, 2)

    return Table(
        f"{world}: how far the largest fault takes it",
        "The set's mean at the largest size, as a share of the way from the clean clips (0) to clips with the sound of "
        "another one that has as many events (1). –: the metric does not tell these two apart.",
        ("metric", *(f"{words(fault.name)}, {fault.sizes[-1]:g} {fault.unit}" for fault in faults)),
        tuple(
            (f"`{judge}`", *(cell(grid[judge, fault.name], grid[judge, FLOOR]) for fault in faults))
            for judge in judges
        ),
    )


def order_table(orders: Sequence[OrderedSets], world: str) -> Table:
    """How often each metric puts two sets with moved events into the order of the truth."""
    total = len(orders[0].pairs) if orders else 0

    def row(order: OrderedSets) -> tuple[str, ...]:
        counts = [int((order.order_P == sign).sum()) for sign in (1, 0, -1)]
        return (
            f"`{order.judge}`",
            format_number(order.share, 3),
            *(format_number(count / total, 3) for count in counts),
        )

    return Table(
        f"{world}: the order of sets with moved events",
        f"{total} pairs of sets (clean, late, early, jitter, tempo) whose events are on average at least 5 ms further "
        "from where they belong in the one than in the other.",
        ("metric", "means in the truth's order", "surely right", "not sure", "surely wrong"),
        tuple(row(order) for order in sorted(orders, key=lambda order: -order.share)),
        "Sure: sign flips over clips, p < 0.01.",
    )


def contradiction_table(found: Sequence[Contradiction], world: str) -> Table:
    """The metrics that contradict each other most."""
    rows = []
    for one in found[:MOST_CONTRADICTIONS]:
        better, worse = one.pairs[len(one.pairs) // 2]
        rows.append(
            (f"`{one.wrong}`", f"`{one.right}`", f"{len(one.pairs)} of {one.of}", f"{better} before {worse}")
        )
    return Table(
        f"{world}: contradictions",
        "Pairs of sets that the first metric surely ranks against the truth, and the second surely with it.",
        ("wrong", "right", "pairs", "such as"),
        tuple(rows) or (("none", "", "", ""),),
    )


def absent_table(found: Measurements) -> Table | None:
    """The metrics that could not be asked, and what they need."""
    rows: dict[tuple[str, str], list[str]] = {}
    for worlds, why in ((found.absent, "needs weights"), (found.silent, "gives no value")):
        for world, own in worlds.items():
            for judge, reason in own.items():
                rows.setdefault((judge, f"{why}: {reason}"), []).append(world)
    if not rows:
        return None
    return Table(
        "Not measured",
        "Published metrics that lack something here, or that find nothing to judge in clips of these worlds.",
        ("metric", "why"),
        tuple((f"`{judge}`", reason) for judge, reason in rows),
    )


def tables(
    found: Measurements,
    answers: Sequence[Sensitivity],
    orders: Mapping[str, Sequence[OrderedSets]],
    against: Mapping[str, Sequence[Contradiction]],
) -> list[Table]:
    """All tables, world by world."""
    made: list[Table] = []
    for world in found.ids:
        made += [smallest_table(answers, world), correlation_table(answers, world)]
        if (extent := extent_table(answers, world)) is not None:
            made.append(extent)
        if orders[world]:
            made += [order_table(orders[world], world), contradiction_table(against[world], world)]
    last = absent_table(found)
    return made if last is None else [*made, last]


def markdown(table: Table, level: int = 2) -> str:
    """A table with its heading as Markdown."""
    rule = "|---|" + "---|" * (len(table.heads) - 1)
    lines = [
        f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (table.heads, *table.rows)
    ]
    parts = [
        f"{'#' * level} {table.heading}",
        table.above,
        "\n".join([lines[0], rule, *lines[1:]]),
        table.below,
    ]
    return "\n\n".join(part for part in parts if part)
