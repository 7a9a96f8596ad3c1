"""A sweep as it is typed, whose workers are forks of a warm process."""

import multiprocessing
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from helpers.forks import run_module
from ovi_lab.sweeps import local_pool


def sweep(arguments: Sequence[str]) -> None:
    """Runs `ovi-train` with these arguments; the workers need not import what is imported."""
    forked: Any = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    local_pool.multiprocessing = forked
    run_module("ovi_lab.train", arguments)
