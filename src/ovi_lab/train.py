"""`ovi-train`: one run, or the sweep that an experiment asks for."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from ovi_eval.common.boundary import one_line
from ovi_eval.common.collector import no_collector
from ovi_lab.common.help import Help
from ovi_lab.common.paths import config_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ovi_lab.api import Run

HELP = Help(
    "ovi-train",
    "Train a model of video with sound, or run a study of several: data, training, validation, samples and scores, "
    "in the folder runs/NAME. A run that was stopped is resumed with resume=last.",
    (
        ("ovi-train experiment=fusion", "a small fused model of the bouncing ball, scored at the end"),
        ("ovi-train experiment=fusion_ablation", "a study: three arms, three seeds, one leaderboard"),
        (
            "ovi-train experiment=ovi_11b_stage1 data.shards=/data/audio/{000..511}.tar trainer.num_nodes=8",
            "the paper's first stage at full size",
        ),
    ),
    "train",
)


def run(config: DictConfig) -> str:
    """One run in this process (a sweep's launcher calls the same code in its own)."""
    from rich.console import Console

    from ovi_lab.common.progress import Reporter, SilentReporter, reporter_on

    with no_collector():
        from ovi_lab.runs.ending import ending
        from ovi_lab.runs.processes import is_first_process
        from ovi_lab.runs.run import execute

    # of all processes, whoever started them, one speaks
    first = is_first_process()
    resumed = f"interrupted; resume=last resumes from the last checkpoint of {config.run_dir}"
    with one_line("error", interrupted=resumed, interrupted_code=2):
        reporter: Reporter = reporter_on(Console()) if first else SilentReporter()
        try:
            outcome = execute(config, reporter)
        finally:
            # before the lines, which a bar would be drawn over
            reporter.close()
        if first:
            print(*ending(config, outcome == "skipped"), sep="\n", flush=True)
        return outcome


def main() -> None:
    """Check the command line, then run; a user's mistake is one line and exit code 2."""
    if HELP.answered(sys.argv[1:]):
        return
    from ovi_lab.common.command_line import check, check_text
    from ovi_lab.common.hydra_main import start
    from ovi_lab.runs.arguments import hydra_arguments
    from ovi_lab.sweeps.study import finish

    again = "interrupted; the same command continues with what is missing"
    with one_line("error", interrupted=again, interrupted_code=2):
        check_text(sys.argv[1:])
        arguments = hydra_arguments(sys.argv[1:])
        check(arguments, config_dir(), "train", may_lack=False)
        start("train", run, arguments)
        finish()


class _Called(ModuleType):
    """This module under the name `ovi_lab.train`, which is the API's function too."""

    def __call__(self, *overrides: str) -> Run:
        """See `ovi_lab.api.train`."""
        from ovi_lab import api

        return api.train(*overrides)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _Called
