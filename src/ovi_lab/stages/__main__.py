"""`python -m ovi_lab.stages`, also `make stages`: the paper's three training stages in sequence on the ball world.

Audio pretraining, audio finetuning, a video tower in place of Wan2.2's, then fusion from these towers and fusion from
scratch; scores, export and sampled clips. Finished runs are skipped and others resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ovi_eval.common.boundary import one_line
from ovi_lab.common.command_line import check_text
from ovi_lab.stages.chain import parse, run_chain
from ovi_lab.sweeps.local_pool import PoolLauncher


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chain; a user's mistake is one line and exit code 2."""
    again = "interrupted; the same command continues with what is missing"
    with one_line("error", interrupted=again, interrupted_code=2):
        given = sys.argv[1:] if arguments is None else arguments
        check_text(given)
        settings, overrides = parse(given)
        scored = run_chain(settings, overrides, PoolLauncher(settings.workers).run_jobs)
        from rich.markdown import Markdown

        from ovi_eval.report.terminal import narrow_console
        from ovi_lab.stages.outcome import report

        narrow_console().print(Markdown(report(settings, scored)))
        print(f"\n{settings.folder / 'report' / 'stages.md'}")


if __name__ == "__main__":
    main()
