"""ovi-lab: train, ablate and sample Ovi, the twin diffusion transformer for video with sound.

From Python: `ovi_lab.load(…).sample(…)`, `ovi_lab.compose(…)` and `ovi_lab.train(…)`; see docs/api.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovi_lab.api import compose as compose
    from ovi_lab.api import load as load
    from ovi_lab.api import train as train

__version__ = "0.1.0"
__all__ = ["__version__", "compose", "load", "train"]


def __getattr__(name: str) -> Any:
    # imported with the first use, so that `import ovi_lab` and --help take no time
    from importlib import import_module

    if name in ("compose", "load"):
        return getattr(import_module("ovi_lab.api"), name)
    if name == "train":
        # the command's module, which is callable: importing it anywhere puts it under this name
        return import_module("ovi_lab.train")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
