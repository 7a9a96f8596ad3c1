"""`ovi-plan`: memory, time and cost of a run of `ovi-train` on a cluster, before it is launched.

    ovi-plan experiment=ovi_11b_stage3 strategy=zero3 gpus=64x80GB
    ovi-plan experiment=ovi_11b_stage1 gpus=8xH100 price=2.5 efficiency=0.45

Takes what `ovi-train` takes, and six words of its own: `gpus` (number and memory or kind), `price` of a GPU
hour, `efficiency` (share of the GPU's peak that is reached), `storage` (GB/s of the checkpoints' file system),
`video=FxHxW` and `audio=L` (latents of a clip). Leaves
with 0 where the run fits, 1 where it does not, 2 for bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovi_eval.common.boundary import command
from ovi_lab.common.help import Help, own_words
from ovi_lab.common.paths import config_dir
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

HELP = Help(
    "ovi-plan",
    "Print what a run of ovi-train takes on a cluster: memory and what fills it, time, cost, and what to change where "
    "it does not fit. Exit codes: 0 it fits, 1 it does not, 2 bad input.",
    (
        (
            "ovi-plan experiment=ovi_11b_stage3 strategy=zero3 gpus=64x80GB",
            "memory and time of the paper's last stage",
        ),
        ("ovi-plan experiment=ovi_11b_stage1 gpus=8xH100 price=2.5 efficiency=0.45", "with the cost"),
        ("ovi-plan experiment=ovi_lora gpus=1x24GB video=31x34x60 audio=157", "for clips of this shape"),
    ),
    "train",
    own=(
        ("gpus=", "number and memory or kind, such as 64x80GB or 8xH100 (required)"),
        ("price=", "of a GPU hour"),
        ("efficiency=", "share of the GPU's peak that is reached"),
        ("storage=", "GB/s that the file system of the checkpoints takes from all processes"),
        ("video=", "latent frames, rows and columns of a clip, as 31x44x46"),
        ("audio=", "latents of a clip's sound, as 157"),
    ),
    hydra=False,
)


@command("error")
def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """The command; a user's mistake is one line. Returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if HELP.answered(given):
        return 0
    from rich.console import Console

    return plan(given, console or Console())


def plan(arguments: Sequence[str], console: Console) -> int:
    """Print the plan; 0 where it fits, else 1. Raises UserError for bad input."""
    from ovi_lab.common.command_line import check_flags
    from ovi_lab.planning.clip_shape import ClipShape
    from ovi_lab.planning.cluster import Cluster
    from ovi_lab.planning.interruptions import STORAGE
    from ovi_lab.planning.job import TrainingJob
    from ovi_lab.planning.time import EFFICIENCY
    from ovi_lab.planning.training_planner import TrainingPlanner
    from ovi_lab.planning.training_report import print_plan

    check_flags(arguments, "ovi-plan")
    own, rest = own_words(arguments, HELP)
    if "gpus" not in own:
        raise UserError("gpus is not given: number and memory or kind, such as gpus=64x80GB or gpus=8xH100")
    cluster = Cluster.parse(own["gpus"])
    efficiency = _number("efficiency", own.get("efficiency", str(EFFICIENCY)))
    if efficiency > 1:
        raise UserError(f"efficiency={efficiency:g} is a share of the GPU's peak; expected 1 at most")
    price = _number("price", own["price"]) if "price" in own else None
    storage = _number("storage", own.get("storage", str(STORAGE)))
    planner = TrainingPlanner(TrainingJob(_composed(rest), ClipShape.typed(own)))
    return print_plan(console, planner, cluster, efficiency, price, storage)


def _composed(overrides: Sequence[str]) -> DictConfig:
    from ovi_lab.common.command_line import check_text, composed
    from ovi_lab.runs.arguments import hydra_arguments

    check_text(overrides)
    return composed(hydra_arguments(overrides), config_dir(), "train")


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{name}={text} is not understood: expected a number above 0")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
