"""A run's weights as a model without an adapter takes them, whether the run had one or not."""

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
    """Weights with the adapter that their run's configuration tells of merged as they are read; else as they are."""
    adapter = None if configuration is None else configuration.adapter()
    return MergedWeights(stored, adapter) if adapter else stored
