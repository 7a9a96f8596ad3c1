"""Both towers on paired video and audio."""

from __future__ import annotations

from ovi_lab.tasks.base import FlowMatchingTask


class FusionTraining(FlowMatchingTask):
    """The paper's stage 3, and the ablations of it: what the towers exchange is the model's configuration."""

    modalities = ("video", "audio")
