"""Models in transformers' layout, read from a folder: nothing is fetched, no code of the folder is run, and a model
that the folder does not hold as a whole is refused, where transformers would fill it with random numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ovi_eval.errors import UserError

# Exceptions of transformers and its libraries for a damaged or foreign folder.
FAULTS = (OSError, ValueError, TypeError, LookupError, RuntimeError, AttributeError, SafetensorError)


def model_from(kind: Any, folder: Path, what: str, **options: Any) -> Any:
    """transformers' `kind` in float32 from `folder`, in evaluation mode without gradients, on the CPU.

    Raises UserError where the folder holds no whole `what`.
    """
    with reading(folder, what):
        network, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            **options,
        )
    listed = (report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    faults = [key if isinstance(key, str) else key[0] for keys in listed for key in keys]
    if faults:
        raise UserError(
            f"{folder}: holds other weights than its config.json describes, such as {faults[0]}; "
            "fetch the folder again"
        )
    return network.eval().requires_grad_(False)


@contextmanager
def reading(folder: Path, what: str) -> Iterator[None]:
    """Context of a quiet load, with a UserError that names the folder where it cannot be read as `what`."""
    try:
        with quiet():
            yield
    except FAULTS as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: cannot be read as {what} ({first}); fetch it again") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Context without transformers' progress bars and advice, which would appear for every clip."""
    from transformers.utils import logging as talk

    level, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity(logging.ERROR)
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(level)
        if bars:
            talk.enable_progress_bar()
