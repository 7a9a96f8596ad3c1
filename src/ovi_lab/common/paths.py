"""The folder of the configuration, in a checkout, an editable install or a wheel."""

from __future__ import annotations

from pathlib import Path


def config_dir() -> Path:
    """The folder of Hydra's configuration: inside the package in a wheel, beside `src/` in a checkout.

    Raises:
        FileNotFoundError: neither is there (a broken installation).
    """
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "conf", package.parent.parent / "conf")
    for candidate in candidates:
        if (candidate / "train.yaml").is_file():
            return candidate
    raise FileNotFoundError(
        f"no configuration found at {' or '.join(map(str, candidates))}: "
        "reinstall ovi-lab, or run from a whole checkout"
    )
