"""Exports read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ovi_lab.checkpoints.presets import load_released
from ovi_lab.export.export import Export, export_run


def read_back(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and config.json of an export."""
    config = json.loads((folder / "config.json").read_text())
    return load_released(folder, config["model"]).state_dict(), config


def exported(
    source: Path, out: Path, **options: Any
) -> tuple[dict[str, torch.Tensor], dict[str, Any], Export]:
    """Export, and read back: weights, config.json, files and notes."""
    done = export_run(source, out, **options)
    return *read_back(out), done
