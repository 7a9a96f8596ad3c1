"""Sources of an export: weights of any trainer, with the configuration of their model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovi_lab.checkpoints.configuration import Configuration
from ovi_lab.checkpoints.opening import Opened, open_weights
from ovi_lab.checkpoints.presets import released_model, released_names
from ovi_lab.errors import UserError

_CONFIG = "config.yaml"


@dataclass(frozen=True)
class ExportSource:
    """An opened checkpoint with its configuration."""

    opened: Opened
    configuration: Configuration
    """The run's whole configuration; at least its `model`."""
    model: dict[str, Any]
    """Checked arguments of TwinDiT."""


def open_source(path: str | Path, ema: bool | None = None, config: str | Path | None = None) -> ExportSource:
    """Open weights, and find their model's configuration.

    Args:
        path, ema: see `open_weights`.
        config: the run's configuration (a YAML file with `model:`), or a released model's name. None looks for
            config.yaml beside the checkpoint and in the two folders above. Our own checkpoints bring theirs.

    Raises:
        UserError: as `open_weights`; or there is no configuration, or one of no model of ours.
    """
    opened = open_weights(path, ema)
    found = opened.configuration
    if found is not None and config is not None:
        raise UserError(f"--config is for checkpoints of other trainers; {path} brings its own configuration")
    if found is None:
        found = _found(opened.weights.path, config)
    return ExportSource(opened, found, found.model())


def _found(checkpoint: Path, given: str | Path | None) -> Configuration:
    if given is not None:
        name = str(given)
        if name in released_names():
            return Configuration(name, {"name": name, "model": released_model(name).model})
        return Configuration.read(given)
    # the run's folder holds it: <run>/checkpoints/<checkpoint>[/<tag>]
    resolved = checkpoint.resolve()
    for folder in (resolved, *list(resolved.parents)[:3]):
        if (folder / _CONFIG).is_file():
            return Configuration.read(folder / _CONFIG)
    raise UserError(
        f"no {_CONFIG} beside {checkpoint} or above it: name the run's with --config, or a released model "
        f"({', '.join(released_names())})"
    )
