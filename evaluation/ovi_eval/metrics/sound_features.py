"""Features of a clip's sound, for the metrics that are taken in VGGish and in Cnn14.

Sound is mixed to mono by the channels' mean and resampled to 16 kHz by FFmpeg. Silence is no sound: such clips
are left out and counted as missing, which published scripts do not do.

Shapes: S samples, P patches of 0.96 s.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ovi_eval.backbones import panns, vggish
from ovi_eval.clips.clipset import SILENT
from ovi_eval.clips.items import Item
from ovi_eval.common.needs import find_weights
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import LoadedNetwork
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features

RESAMPLED = "mono by the channels' mean, 16 kHz by FFmpeg's resampler"


class SoundExtractor(Extractor):
    """What the networks that hear at 16 kHz share. `shortest` counts samples at 16 kHz."""

    sample_rate: ClassVar[int] = 16000
    shortest: ClassVar[int]
    network: Any

    def use(self, loaded: LoadedNetwork[Any]) -> None:
        """Takes the network, and says which weights it has."""
        self.network = loaded.network.to(self.device)
        self.variant = f"{loaded.variant}, 16 kHz by FFmpeg"
        self.weights = {loaded.path.name: loaded.sha256}

    def load(self, item: Item) -> Tensor:
        """The wave [S] float32 at 16 kHz. Raises UserError for no sound, silence, and fewer samples than needed."""
        wave_S = item.audio(self.sample_rate).wave_S
        if not bool(torch.isfinite(wave_S).all()):
            raise UserError("its sound is not finite")
        if len(wave_S) < self.shortest:
            raise UserError(
                f"its sound is too short for the network: {len(wave_S) / self.sample_rate:.3f} s of "
                f"{self.shortest / self.sample_rate:.3f} s"
            )
        if float(wave_S.abs().max()) < SILENT:
            raise UserError("its sound is silence")
        return wave_S


class VGGishFeatures(SoundExtractor):
    """`features` [P, 128] float32: one row for each whole 0.96 s."""

    name = "vggish"
    needs = (vggish.FILE,)
    shortest = vggish.SHORTEST
    preprocessing = f"{RESAMPLED}; log-mel of 25 ms every 10 ms, patches of 0.96 s; no last ReLU, no PCA"

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        self.use(vggish.load_vggish(find_weights(vggish.FILE, self.name)))

    def load(self, item: Item) -> Tensor:
        """Log-mel patches [P, 96, 64] float32."""
        return vggish.patches(super().load(item)).float()

    def run(self, loaded: Tensor) -> Features:
        return {"features": vggish.embed_patches(self.network, loaded)}


class PannsFeatures(SoundExtractor):
    """`features` [2048] after fc1's ReLU and `logits` [527] before the sigmoid, float32, of the whole clip."""

    name = "panns"
    needs = (panns.FILE,)
    shortest = panns.SHORTEST
    preprocessing = f"{RESAMPLED}; the whole clip; features after fc1's ReLU, logits before the sigmoid"

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        self.use(panns.load_cnn14(find_weights(panns.FILE, self.name)))

    def run(self, loaded: Tensor) -> Features:
        heard = panns.hear(self.network, loaded[None])
        return {"features": heard.features[0], "logits": heard.logits[0]}
