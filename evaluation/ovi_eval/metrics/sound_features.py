"""Features of a clip's sound, for the metrics that are taken in VGGish and in Cnn14.

Sound is mixed to mono by the channels' mean and resampled to 16 kHz by FFmpeg. Silence is no sound: such clips
are left out and counted as missing, which published scripts do not do.

Shapes: S samples, P patches of 0.96 s.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ovi_eval.backbones import panns, vggish
from ovi_eval.clips.clipset import SILENT
from ovi_eval.clips.items import Item
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import PublishedFile, find_weights, load_published
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features

RESAMPLED = "mono by the channels' mean, 16 kHz by FFmpeg's resampler"


def audible(item: Item, sample_rate: int, shortest: int = 1) -> Tensor:
    """The wave [S] float32, mono. Raises UserError for no sound, silence, and fewer samples than `shortest`."""
    wave_S = item.audio(sample_rate).wave_S
    if not bool(wave_S.isfinite().all()):
        raise UserError("its sound is not finite")
    if len(wave_S) < shortest:
        raise UserError(
            f"its sound is too short for the network: {len(wave_S) / sample_rate:.3f} s of "
            f"{shortest / sample_rate:.3f} s"
        )
    if float(wave_S.abs().max()) < SILENT:
        raise UserError("its sound is silence")
    return wave_S


class SoundExtractor(Extractor):
    """A network that hears at 16 kHz. `shortest` counts samples."""

    file: ClassVar[PublishedFile]
    build: ClassVar[type[nn.Module]]
    shortest: ClassVar[int]

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        self.network: Any = self.take(
            load_published(self.build, find_weights(self.file, self.name), self.file)
        )
        self.variant += ", 16 kHz by FFmpeg"

    def load(self, item: Item) -> Tensor:
        """The wave [S] float32 at 16 kHz. Raises UserError as `audible`."""
        return audible(item, 16000, self.shortest)


class VGGishFeatures(SoundExtractor):
    """`features` [P, 128] float32: one row for each whole 0.96 s."""

    name = "vggish"
    file, build, shortest = vggish.FILE, vggish.VGGish, vggish.SHORTEST
    needs = (file,)
    preprocessing = f"{RESAMPLED}; log-mel of 25 ms every 10 ms, patches of 0.96 s; no last ReLU, no PCA"

    def load(self, item: Item) -> Tensor:
        """Log-mel patches [P, 96, 64] float32."""
        return vggish.patches(super().load(item)).float()

    def run(self, loaded: Tensor) -> Features:
        return {"features": vggish.embed_patches(self.network, loaded)}


class PannsFeatures(SoundExtractor):
    """`features` [2048] after fc1's ReLU and `logits` [527] before the sigmoid, float32, of the whole clip."""

    name = "panns"
    file, build, shortest = panns.FILE, panns.Cnn14, panns.SHORTEST
    needs = (file,)
    preprocessing = f"{RESAMPLED}; the whole clip; features after fc1's ReLU, logits before the sigmoid"

    def run(self, loaded: Tensor) -> Features:
        heard = panns.hear(self.network, loaded[None])
        return {"features": heard.features[0], "logits": heard.logits[0]}
