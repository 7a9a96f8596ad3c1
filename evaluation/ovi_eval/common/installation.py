"""How an extra of the project is installed: from the checkout that it runs from, or by its name."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlparse

DISTRIBUTION = "ovi-lab"


def install_hint(extra: str, also: str = "") -> str:
    """The command that installs an extra here, such as `pip install -e '.[wandb]'`.

    Args:
        extra: its name in pyproject.toml.
        also: packages outside of the project that are needed with it.

    Returns:
        the command; for a checkout, with the words "in ovi-lab's checkout" where the working directory is another.
    """
    also = f" {also}" if also else ""
    checkout = _checkout()
    if checkout is None:
        return f"pip install '{DISTRIBUTION}[{extra}]'{also}"
    # no path of the machine: such lines are stored with results
    elsewhere = "" if checkout == Path.cwd() else f" in {DISTRIBUTION}'s checkout"
    return f"pip install -e '.[{extra}]'{also}{elsewhere}"


@cache
def _checkout() -> Path | None:
    """The checkout that is installed in editable mode or run without being installed; None for a wheel."""
    try:
        text = distribution(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        return Path(__file__).resolve().parents[3]
    origin = json.loads(text) if text else {}
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(origin["url"]).path))
