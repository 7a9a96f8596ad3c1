"""`ovi-sample`: clips with sound from a released model or a run of our own."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ovi_eval.common.boundary import one_line
from ovi_eval.common.collector import no_collector
from ovi_lab.common.following import typed
from ovi_lab.common.help import Help
from ovi_lab.common.paths import config_dir
from ovi_lab.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

HELP = Help(
    "ovi-sample",
    "Sample clips with sound, from a released model or from a run of one's own, as mp4 files. With --plan it prints "
    "the memory that a released model takes on a GPU, and samples nothing.",
    (
        (
            'ovi-sample checkpoint=runs/fusion/last prompt="a red ball bounces three times low drum"',
            "a clip of a run of one's own",
        ),
        (
            'ovi-sample checkpoint=ovi_960x960_10s weights=DIR prompt="… <S>Hello.<E> … Audio: soft rain"',
            "a clip of a released model, its files under DIR",
        ),
        (
            "ovi-sample checkpoint=ovi_720x720_5s weights=DIR prompts=prompts.csv variants=2 out=clips",
            "two clips of each row of a table; the same command resumes where it was stopped",
        ),
    ),
    "sample",
)


def run(config: DictConfig) -> None:
    """Sample and print where the clips are."""
    from omegaconf import OmegaConf

    with no_collector():
        from ovi_lab.planning.sampling_report import check_memory
        from ovi_lab.sampling.command import sample_clips

    with one_line("error"):
        if OmegaConf.is_missing(config, "checkpoint"):
            raise UserError(
                'checkpoint is not given: ovi-sample checkpoint=runs/fusion/last prompt="a red ball bounces"'
            )
        try:
            outcome = sample_clips(config, check_memory)
        except KeyboardInterrupt:
            print(
                "stopped: run the same command again to make the clips that are missing",
                file=sys.stderr,
                flush=True,
            )
            raise SystemExit(130) from None
        for path in outcome.kept:
            print(f"{path} (finished before)")
        for path in outcome.made:
            print(path)
        found = len(outcome.made) + len(outcome.kept)
        if found and int(os.environ.get("RANK", "0")) == 0:
            # on stderr: what is printed is the list of clips
            out, results = typed(str(config.out)), typed(f"{config.out}/results.json")
            print(
                f"{found} clip{'s' * (found > 1)} in {out}, {len(outcome.made)} of them new\n"
                f"next: ovi-eval score {out} --out {results}",
                file=sys.stderr,
                flush=True,
            )
        if outcome.bad:
            made = len(outcome.made) + len(outcome.kept)
            raise UserError(
                f"{len(outcome.bad)} of {made + len(outcome.bad)} rows were left out, named above"
            )


def main() -> None:
    """Check the command line, then sample; a user's mistake is one line and exit code 2."""
    if HELP.answered(sys.argv[1:]):
        return
    from ovi_lab.common.command_line import check, check_text
    from ovi_lab.common.hydra_main import start
    from ovi_lab.sampling.arguments import hydra_arguments

    with one_line("error"):
        check_text(sys.argv[1:])
        if "--plan" in sys.argv[1:]:
            from ovi_lab.planning.sampling_report import plan_command

            raise SystemExit(plan_command(sys.argv[1:]))
        arguments = hydra_arguments(sys.argv[1:])
        check(arguments, config_dir(), "sample")
        start("sample", run, arguments)


if __name__ == "__main__":
    main()
