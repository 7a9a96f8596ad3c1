"""Imported by the warm process before its first fork: what commands would import each by itself.

Its objects are set apart from those that the garbage collector looks at, which no fork has to go through again.
"""

import gc
import importlib
import pkgutil
import sys
from contextlib import suppress

from hydra.core.plugins import Plugins

import ovi_eval
import ovi_lab

_OTHERS = (
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.zero.muon.original_muon",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
    "lightning.pytorch",
    "pytest",
    "torch.utils.tensorboard",
)


def _import() -> None:
    names = [
        module.name
        for package in (ovi_eval, ovi_lab)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    # asks the installed packages for metrics, and a fork may find others: left out with all that imports it
    sys.modules["ovi_eval.registry"] = None  # type: ignore[assignment]
    for name in (*_OTHERS, *names):
        if not name.endswith("__main__"):
            with suppress(ImportError):  # of an optional package
                importlib.import_module(name)
    del sys.modules["ovi_eval.registry"]
    Plugins.instance()


gc.disable()
_import()
gc.enable()
gc.freeze()
