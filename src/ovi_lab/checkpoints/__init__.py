"""Checkpoints as folders: safetensors weights, the resolved configuration, and what resuming needs."""

from ovi_lab.checkpoints.folder import FORMAT, Checkpoint, latest_checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.init_from import initialise_from
from ovi_lab.checkpoints.lightning_io import FolderCheckpointIO

__all__ = [
    "FORMAT",
    "Checkpoint",
    "FolderCheckpointIO",
    "initialise_from",
    "latest_checkpoint",
    "resolve_checkpoint",
]
