"""`ovi-stages`, also `make stages`: the paper's three training stages in sequence on the ball world.

Audio pretraining, audio finetuning, a video tower in place of Wan2.2's, then fusion from these towers and fusion from
scratch; scores, export and sampled clips. Finished runs are skipped and others resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ovi_eval.common.boundary import one_line
from ovi_lab.common.help import Help

HELP = Help(
    "ovi-stages",
    "Train the paper's three stages in sequence on the ball world, from random weights to an exported model: audio "
    "pretraining, audio finetuning, fusion from pretrained towers and fusion from scratch, with scores and clips. "
    "Finished runs are skipped, others are resumed. Any other KEY=VALUE is for every run.",
    (
        ("ovi-stages", "one chain, into runs/stages"),
        ("ovi-stages seed=0,1,2 workers=4", "three chains, four runs side by side"),
        (
            "ovi-stages name=short steps=20 scratch_steps=20 data.num_train=64",
            "a chain of a few minutes, to see it work",
        ),
    ),
    "train",
    own=(
        ("name=", "everything is written below runs/NAME (stages)"),
        ("seed=", "seeds, one chain each, as 0,1,2 (0)"),
        ("steps=", "lengths of stage 3 from pretrained towers (125,250)"),
        ("scratch_steps=", "lengths of fusion training without them (125,250,500)"),
        ("freeze=", "rules of what stage 3 freezes (ffn)"),
        ("goal=", "onset F1; the report gives the first run that reaches it (0.65)"),
        ("workers=", "runs side by side; 0: one per core (0)"),
    ),
    hydra=False,
    refused=("experiment",),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chain; a user's mistake is one line and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    if HELP.answered(given):
        return
    from ovi_lab.common.command_line import check_flags, check_text
    from ovi_lab.stages.chain import parse, run_chain
    from ovi_lab.sweeps.local_pool import PoolLauncher

    again = "interrupted; the same command continues with what is missing"
    with one_line("error", interrupted=again, interrupted_code=2):
        check_text(given)
        check_flags(given, "ovi-stages")
        settings, overrides = parse(given)
        scored = run_chain(settings, overrides, PoolLauncher(settings.workers).run_jobs)
        from rich.markdown import Markdown

        from ovi_eval.report.terminal import narrow_console
        from ovi_lab.stages.outcome import report

        narrow_console().print(Markdown(report(settings, scored)))
        print(f"\n{settings.folder / 'report' / 'stages.md'}")


if __name__ == "__main__":
    main()
