"""Checkpoints as folders: safetensors weights, the resolved configuration, and what resuming needs."""

from ovi_lab.checkpoints.folder import FORMAT, Checkpoint, latest_checkpoint, resolve_checkpoint
from ovi_lab.checkpoints.io import FolderCheckpointIO
from ovi_lab.checkpoints.loading import initialise_from

__all__ = [
    "FORMAT",
    "Checkpoint",
    "FolderCheckpointIO",
    "initialise_from",
    "latest_checkpoint",
    "resolve_checkpoint",
]
