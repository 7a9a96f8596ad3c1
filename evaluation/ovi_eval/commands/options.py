"""What several commands make of their options."""

from __future__ import annotations

import os
from pathlib import Path

from ovi_eval.errors import UserError

WEIGHTS_HELP = "folder of published weights (default: $OVI_EVAL_WEIGHTS)"


def names_of(text: str | None, option: str) -> list[str] | None:
    """The names in a list with commas; None where the option was not given. Raises UserError for an empty list."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"{option} expects names with commas between, found {text!r}")
    return names


def use_weights(folder: str | None) -> None:
    """Makes `folder` the folder of weights of this process and those it starts; None keeps the environment's."""
    from ovi_eval.common.needs import WEIGHTS_FOLDER

    if folder is None:
        return
    if not Path(folder).is_dir():
        raise UserError(f"--weights {folder}: no such folder")
    os.environ[WEIGHTS_FOLDER] = str(Path(folder).resolve())
