"""One tower by itself, before fusion."""

from __future__ import annotations

from ovi_lab.tasks.base import FlowMatchingTask


class AudioPretraining(FlowMatchingTask):
    """The audio tower with its text cross-attention (the paper's stages 1 and 2). No video tower is built."""

    modalities = ("audio",)


class VideoPretraining(FlowMatchingTask):
    """The video tower with its text cross-attention. No audio tower is built."""

    modalities = ("video",)
