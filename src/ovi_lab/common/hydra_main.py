"""Runs a function under Hydra, with one-line errors instead of Hydra's tracebacks."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import hydra
from omegaconf import DictConfig

from ovi_eval.common.shown import shown
from ovi_lab.common.command_line import flags_last
from ovi_lab.common.paths import config_dir
from ovi_lab.common.values import check_values
from ovi_lab.errors import UserError


def start(config_name: str, task: Callable[[DictConfig], Any], arguments: Sequence[str]) -> None:
    """Runs a checked command line as `hydra.main` does: one job, a sweep, or a flag of Hydra's.

    Raises:
        UserError: Hydra cannot start, for example because its logging or a launcher is configured wrongly. Errors
            with our own code in their traceback pass unchanged.
    """
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [sys.argv[0], *flags_last(arguments)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised, and not printed in Hydra's way
    try:
        _under_hydra(config_name, task)()
    except UserError:
        raise
    except Exception as error:
        if _is_ours(error.__traceback__):
            raise
        text = str(error).strip() or str(error.__cause__ or "").strip()
        reason = shown(text.splitlines()[0] if text else type(error).__name__)
        raise UserError(f"Hydra cannot start with this command line: {reason}") from error
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[1]


def _under_hydra(config_name: str, task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
    @functools.wraps(task)
    def run(config: DictConfig) -> Any:
        return task(check_values(config, config_name, may_lack=True))

    decorated: Any = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(
        run
    )
    return decorated


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether a function of ovi_lab or ovi_eval, other than those of this file, was running."""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__"))
        if module.split(".")[0] in ("ovi_lab", "ovi_eval", "__main__") and module != __name__:
            return True
        trace = trace.tb_next
    return False
