"""ovi_eval: scores clips of video and sound. Never imports ovi_lab, so that it scores any system's output.

From Python: `ovi_eval.score(clips, reference=…, metrics=…)`; see docs/api.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovi_eval.api import score as score

__version__ = "0.1.0"
__all__ = ["__version__", "score"]


def __getattr__(name: str) -> Any:
    # imported with the first use, so that `import ovi_eval` and --help take no time
    if name != "score":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("ovi_eval.api").score
