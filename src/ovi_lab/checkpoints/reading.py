"""A run's weights for a model without an adapter: an adapter of the run is merged."""

from __future__ import annotations

from ovi_lab.adapters.merging import MergedWeights
from ovi_lab.checkpoints.configuration import Configuration
from ovi_lab.checkpoints.folder import Checkpoint
from ovi_lab.weights.tensor_files import Stored


def model_weights(checkpoint: Checkpoint, ema: bool = False) -> Stored:
    """The model of a checkpoint on disk, under the released names; an adapter is merged as it is read.

    Args:
        checkpoint: of ours, of any strategy.
        ema: averaged weights; what is frozen has none, and is read as it is.

    Raises:
        UserError: the checkpoint holds no such weights, or a part of an adapter only, or is not as it was written.
    """
    return merged_weights(checkpoint.stored("model", ema=ema), checkpoint.configuration())


def merged_weights(stored: Stored, configuration: Configuration | None) -> Stored:
    """Weights with their run's adapter merged as they are read, where its configuration has one."""
    adapter = None if configuration is None else configuration.adapter()
    return MergedWeights(stored, adapter) if adapter else stored
