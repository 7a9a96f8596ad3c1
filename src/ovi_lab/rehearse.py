"""`ovi-rehearse`: a training run on GPUs that are not there: its own code, on tensors without data.

    ovi-rehearse experiment=ovi_11b_stage3 strategy=fsdp2 gpus=64x80GB
    ovi-rehearse experiment=ovi_lora gpus=1x80GB markdown=report.md

Takes what `ovi-train` takes, and words of its own. Leaves with 0 where nothing unexpected was found, 1 where something
was, 2 for bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovi_eval.common.boundary import command
from ovi_lab.common.help import Help, own_words
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

HELP = Help(
    "ovi-rehearse",
    "Run a few steps of a training run on GPUs that are not there, by the code that would run on them, on tensors that "
    "have shapes and no data: tensors on different devices, waits for the GPU, memory of a rank beside ovi-plan's, "
    "kernels and bytes by line. Exit codes: 0 nothing unexpected, 1 something, 2 bad input.",
    (
        ("ovi-rehearse experiment=ovi_11b_stage3 strategy=fsdp2 gpus=64x80GB", "the paper's last stage"),
        ("ovi-rehearse experiment=ovi_lora gpus=1x80GB markdown=report.md", "a report to keep"),
    ),
    "train",
    own=(
        ("gpus=", "number and memory or kind, such as 64x80GB or 8xH100 (required)"),
        ("markdown=", "a file for the report, as Markdown"),
        ("json=", "a file for all that was counted"),
    ),
    hydra=False,
)  # fmt: skip


@command("error")
def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """The command; a user's mistake is one line. Returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if HELP.answered(given):
        return 0
    from rich.console import Console

    return rehearse(given, console or Console())


def rehearse(arguments: Sequence[str], console: Console) -> int:
    """Print the report; 0 where nothing unexpected was found, else 1. Raises UserError for bad input."""
    import json

    from ovi_eval.common.files import write_whole
    from ovi_lab.common.command_line import check_flags
    from ovi_lab.rehearsal.page import Block, markdown, print_page
    from ovi_lab.rehearsal.report import UNSEEN, training_blocks
    from ovi_lab.rehearsal.run import rehearse as run_part

    check_flags(arguments, "ovi-rehearse")
    own, rest = own_words(arguments, HELP)
    if "gpus" not in own:
        raise UserError("gpus is not given: number and memory or kind, such as gpus=64x80GB or gpus=8xH100")
    found = run_part("training", own["gpus"], rest)
    blocks, findings = training_blocks(found)
    blocks.append(Block("", (UNSEEN,)))
    print_page(console, blocks)
    if "markdown" in own:
        title = f"# Rehearsal\n\n`ovi-rehearse {' '.join(arguments)}`\n\n"
        write_whole(Path(own["markdown"]), title + markdown(blocks))
    if "json" in own:
        write_whole(Path(own["json"]), json.dumps(found, indent=1))
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
