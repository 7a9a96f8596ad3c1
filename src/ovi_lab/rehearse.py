"""`ovi-rehearse`: a training run on GPUs that are not there: its own code, on tensors without data.

    ovi-rehearse experiment=ovi_11b_stage3 strategy=fsdp2 gpus=64x80GB
    ovi-rehearse experiment=ovi_lora gpus=1x80GB markdown=report.md

Takes what `ovi-train` takes, and words of its own. Leaves with 0 where nothing unexpected was found, 1 where something
was, 2 for bad input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovi_eval.common.boundary import command
from ovi_lab.common.help import Help, own_words
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ovi_lab.rehearsal.page import Block

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
        ("parts=", "training (the default), inference (sampling, codecs, text encoder), samples (in training)"),
        ("video=", "latent frames, rows and columns of a clip in training, as 31x44x46"),
        ("audio=", "audio latents of a clip in training, as 157"),
        ("device=", "cuda: measure on this machine's GPU instead, in about ten minutes"),
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
    from ovi_eval.common.files import write_whole
    from ovi_lab.common.command_line import check_flags
    from ovi_lab.planning.clip_shape import ClipShape
    from ovi_lab.rehearsal.page import markdown, print_page
    from ovi_lab.rehearsal.run import rehearse as run_part

    check_flags(arguments, "ovi-rehearse")
    own, rest = own_words(arguments, HELP)
    ClipShape.typed(own)  # so that a mistake is said before a process is started
    rest += [f"{key}={own[key]}" for key in ("video", "audio") if key in own]
    if own.get("device") not in (None, "cuda"):
        raise UserError(
            f"device={own['device']} is unknown: cuda measures on a GPU, without it nothing needs one"
        )
    measures = "device" in own
    parts = _measured_parts(own) if measures else _parts(own)
    found: dict[str, Any] = {}
    for part in parts:
        try:
            found[part] = run_part(part, own.get("gpus", ""), rest)
        except RuntimeError as error:
            if not measures:
                raise
            # its traceback is on the terminal; a GPU may be lent for minutes, and the other parts are worth having
            found[part] = {"failed": str(error)}
    blocks, findings = _drawn(found, measures)
    print_page(console, blocks)
    if "markdown" in own:
        title = f"# {'Measured' if measures else 'Rehearsal'}\n\n`ovi-rehearse {' '.join(arguments)}`\n\n"
        write_whole(Path(own["markdown"]), title + markdown(blocks))
    if "json" in own:
        write_whole(Path(own["json"]), json.dumps(found, indent=1))
    return 1 if findings else 0


def _parts(own: dict[str, str]) -> list[str]:
    from ovi_lab.rehearsal.report import PARTS

    if "gpus" not in own:
        raise UserError("gpus is not given: number and memory or kind, such as gpus=64x80GB or gpus=8xH100")
    parts = own.get("parts", "training").split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f"parts={own['parts']}: {unknown[0]!r} is unknown; there are {' and '.join(PARTS)}")
    return parts


def _measured_parts(own: dict[str, str]) -> list[str]:
    from ovi_lab.models.recomputation import ACTIVATION_CHECKPOINTING
    from ovi_lab.rehearsal.gpu import check_gpu

    for word in ("gpus", "parts"):
        if word in own:
            raise UserError(f"{word}={own[word]} does not go with device=cuda, which measures all on one GPU")
    check_gpu()
    return [f"measured {part}" for part in (*ACTIVATION_CHECKPOINTING, "inference")]


def _drawn(found: dict[str, Any], measures: bool) -> tuple[list[Block], int]:
    """The blocks of a report, and how many findings it has."""
    from ovi_lab.rehearsal.page import Block
    from ovi_lab.rehearsal.report import PARTS, UNSEEN, measured_blocks

    if measures:
        return measured_blocks(found)
    blocks: list[Block] = []
    findings = 0
    for part, facts in found.items():
        more, count = PARTS[part](facts)
        blocks, findings = [*blocks, *more], findings + count
    return [*blocks, Block("", (UNSEEN,))], findings


if __name__ == "__main__":
    raise SystemExit(main())
