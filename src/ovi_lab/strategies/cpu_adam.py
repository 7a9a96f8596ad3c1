"""DeepSpeed's AdamW for state that is kept in the host's memory: vectorised C++, compiled when first used."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger("ovi_lab.strategies")

_TAKEN = {"lr", "betas", "eps", "weight_decay"}


def cpu_adam_where_possible(factory: Callable[..., Any]) -> Callable[..., Any]:
    """DeepSpeed's factory for torch's AdamW; any other factory as it is.

    Also as it is, with one line in the log, where the extension cannot be compiled: it takes a C++ compiler and ninja.
    """
    made, given = getattr(factory, "func", factory), getattr(factory, "keywords", {})
    if made is not torch.optim.AdamW or given.keys() - _TAKEN:
        return factory
    from deepspeed.ops.op_builder import CPUAdamBuilder

    try:
        CPUAdamBuilder().load(verbose=False)
    except Exception as error:  # whatever a compiler may say
        log.warning(
            "torch's AdamW steps the offloaded state, as DeepSpeed's CPU Adam cannot be compiled here (%s): a C++ "
            "compiler and ninja make such steps faster",
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
        )
        return factory
    return functools.partial(_cpu_adam(), **given)


@functools.cache
def _cpu_adam() -> Any:
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    class CPUAdam(DeepSpeedCPUAdam):
        """Counts steps in whole numbers, as its C++ takes them, also after a checkpoint was loaded."""

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            for held in self.state.values():
                if "step" in held:
                    held["step"] = int(held["step"])
            return super().step(closure)

    return CPUAdam
