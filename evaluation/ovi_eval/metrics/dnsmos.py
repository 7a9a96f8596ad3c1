"""DNSMOS of the clips' sound: P.808's overall score, and P.835's speech, background and overall scores.

See `ovi_eval.backbones.dnsmos`. Sound is resampled to 16 kHz by FFmpeg and rounded to 16 bits, as the files are
that published scripts score. Silent clips are missing, which published scripts do not do. Sound of 16 kHz as
`ovi_eval.pcm` decodes it scores as published scripts score the file; another mix of the channels or another end,
which moves the seam where short sound is doubled, has been seen to change OVRL by 0.05. Clips of a lower rate
than 16 kHz have lost what the networks listen for (P.808 by 0.3 where it was tried) and are missing.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..backbones import dnsmos
from ..backbones.published import PublishedFile, find_weights
from ..clipset import ClipSet
from ..media import resample
from ..pcm import decode_pcm16
from .base import ClipMetric, ValueSpec

TOO_LOW = len(ClipMetric.reasons)


class _Dnsmos(ClipMetric):
    """What both share: the file they need, and 16-bit sound at 16 kHz."""

    version = "1"
    needs_weights: ClassVar[PublishedFile]
    reasons = (*ClipMetric.reasons, "its sound has a lower rate than 16 kHz")

    @staticmethod
    def faults(clips: ClipSet) -> Tensor:
        codes_N = ClipMetric.faults(clips)
        low = clips.sample_rate < dnsmos.SAMPLE_RATE
        return torch.where(codes_N == 0, TOO_LOW, codes_N) if low else codes_N

    def __init__(self, weights: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        path = weights or find_weights(self.needs_weights, self.name)
        self.network = dnsmos.OnnxNetwork(path, self.needs_weights)
        self.variant = f"{self.network.variant}, 16 kHz by FFmpeg"

    def score(self, wave_S: np.ndarray) -> list[float]:
        """One sound's values."""
        raise TypeError(f"{type(self).__name__} has no score()")

    def score_file(self, source: str | Path | bytes, name: str | None = None) -> dict[str, float]:
        """Values by key of one file's sound, as published scripts read it. Raises EvalError as `decode_pcm16`."""
        pcm_S = decode_pcm16(source, dnsmos.SAMPLE_RATE, name=name)
        return dict(zip((spec.key for spec in self.values), self.score(pcm_S / 32768), strict=True))

    def measure(self, clips: ClipSet) -> tuple[Tensor, Tensor]:
        rows = []
        for wave_S in clips.waves_NS:
            heard_S = resample(wave_S, clips.sample_rate, dnsmos.SAMPLE_RATE)
            rows.append(self.score((heard_S * 32768).round().clamp(-32768, 32767).numpy() / 32768))
        return torch.tensor(rows, dtype=torch.float64), torch.zeros(len(rows), dtype=torch.long)


class DnsmosP808(_Dnsmos):
    """DNSMOS P.808: one overall score."""

    name = "dnsmos_p808"
    kind = "mean"
    values = (ValueSpec("dnsmos_p808", "higher"),)
    needs_weights = dnsmos.P808_FILE

    def score(self, wave_S: np.ndarray) -> list[float]:
        return [dnsmos.p808(self.network, wave_S)]


class DnsmosP835(_Dnsmos):
    """DNSMOS P.835: speech, background, overall."""

    name = "dnsmos_p835"
    kind = "mean"
    values = tuple(ValueSpec(f"dnsmos_{part}", "higher") for part in ("sig", "bak", "ovrl"))
    needs_weights = dnsmos.P835_FILE

    def score(self, wave_S: np.ndarray) -> list[float]:
        return dnsmos.p835(self.network, wave_S)[0].tolist()
