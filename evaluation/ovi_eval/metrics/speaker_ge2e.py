"""Speaker similarity by GE2E: the cosine of the voices in a clip and in the reference clip.

See `ovi_eval.backbones.ge2e`. The whole sound counts, also where nobody speaks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovi_eval.backbones import ge2e
from ovi_eval.clips.items import Item
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import find_weights, load_published
from ovi_eval.metrics.base import Extractor, Features, ValueSpec
from ovi_eval.metrics.plugins.loading import CosineOfPairs
from ovi_eval.metrics.sound_features import audible


class GE2EVoice(Extractor):
    """Feature: `voice` [256], of length 1."""

    name = "ge2e"
    needs = (ge2e.FILE,)
    preprocessing = "mono 16 kHz by FFmpeg, the whole sound, -30 dB at least; parts of 1.6 s"

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        path = find_weights(ge2e.FILE, self.name)
        self.network = self.take(
            load_published(ge2e.SpeakerEncoder, path, ge2e.FILE, sha256=ge2e.FILE.sha256)
        )

    def load(self, item: Item) -> Tensor:
        return audible(item, ge2e.SAMPLE_RATE, ge2e.SHORTEST)

    def run(self, loaded: Any) -> Features:
        return {"voice": ge2e.voice(self.network, loaded).cpu()}


class SpeakerSimilarityGE2E(CosineOfPairs):
    """Cosine of the voices in a clip and in the reference clip of the same id, 0 to 1."""

    name = "speaker_ge2e"
    values = (ValueSpec("speaker_ge2e", "higher"),)
    extractor, feature = GE2EVoice, "voice"
