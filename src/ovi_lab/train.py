"""`python -m ovi_lab.train`, also `ovi-train`: one run, or the sweep that an experiment asks for."""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

from ovi_lab.errors import UserError
from ovi_lab.paths import config_dir
from ovi_lab.runs.command_line import check, fail, prepared
from ovi_lab.runs.study import finish


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
def run(config: DictConfig) -> str:
    """One run in this process (a sweep's launcher calls the same code in its own)."""
    from ovi_lab.runs.progress import ConsoleReporter, Reporter, SilentReporter
    from ovi_lab.runs.run import execute

    # Lightning starts this program again for each further process of a node; one of them speaks
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    reporter: Reporter = ConsoleReporter() if first else SilentReporter()
    try:
        return execute(config, reporter)
    except UserError as error:
        reporter.close()
        fail(error)
    except KeyboardInterrupt:
        reporter.close()
        fail(UserError(f"interrupted; resume=last goes on from the last checkpoint of {config.run_dir}"))
    finally:
        reporter.close()


def main() -> None:
    """Check the command line, then run; a user's mistake is one line and exit code 2."""
    try:
        sys.argv[1:] = prepared(sys.argv[1:])
        check(sys.argv[1:], config_dir(), "train")
        run()
        finish()
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        fail(UserError("interrupted; the same command goes on with what is missing"))


if __name__ == "__main__":
    main()
