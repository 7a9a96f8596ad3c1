"""DNSMOS of the clips' sound: P.808's overall score, and P.835's speech, background and overall scores.

See `ovi_eval.backbones.dnsmos`. A file's sound is decoded, mixed and resampled to 16 kHz by FFmpeg and rounded to
16 bits, as the WAV files are that published scripts score, and scores as they do: another mix of the channels or
another end, which moves the seam where short sound is doubled, has been seen to change OVRL by 0.05. Silent clips
are missing, which published scripts do not do. Clips of a lower rate than 16 kHz have lost what the networks listen
for (P.808 by 0.3 where it was tried) and are missing.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from ovi_eval.backbones import dnsmos
from ovi_eval.backbones.onnx_file import OnnxFile
from ovi_eval.clips.clipset import SILENT
from ovi_eval.clips.items import Item
from ovi_eval.common.installation import install_hint
from ovi_eval.common.needs import Package
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import PublishedFile, find_weights
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec, variant_of

ONNXRUNTIME = Package("onnxruntime", install_hint("dnsmos"))


class _Scores(Extractor):
    """What both networks share: the file they need, and 16-bit sound at 16 kHz. They run on the CPU."""

    file: ClassVar[PublishedFile]
    preprocessing = (
        "mono and 16 kHz by FFmpeg, 16 bits; segments of 9.01 s a second apart, shorter sound doubled"
    )

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        path = find_weights(self.file, self.name)
        self.network = OnnxFile(path, self.file, "dnsmos")
        self.variant = f"weights {self.network.sha256[:12]}, 16 kHz by FFmpeg"
        self.weights = {path.name: self.network.sha256}

    def load(self, item: Item) -> np.ndarray:
        """The wave [S] float64 in [-1, 1]."""
        own = item.audio().sample_rate
        if own < dnsmos.SAMPLE_RATE:
            raise UserError(f"its sound has {own} Hz, a lower rate than the 16 kHz that DNSMOS listens to")
        wave_S = item.pcm16(dnsmos.SAMPLE_RATE) / 32768
        if np.abs(wave_S).max() < SILENT:
            raise UserError("its sound is silence")
        return wave_S


class P808Score(_Scores):
    """Feature: `score` [1] float64."""

    name = "dnsmos_p808"
    needs = (ONNXRUNTIME, dnsmos.P808_FILE)
    file = dnsmos.P808_FILE

    def run(self, loaded: Any) -> Features:
        return {"score": torch.tensor([dnsmos.p808(self.network, loaded)], dtype=torch.float64)}


class P835Scores(_Scores):
    """Features: `score` [3] float64, SIG, BAK and OVRL; `raw` [3], the network's own outputs."""

    name = "dnsmos_p835"
    needs = (ONNXRUNTIME, dnsmos.P835_FILE)
    file = dnsmos.P835_FILE

    def run(self, loaded: Any) -> Features:
        mapped, raw = dnsmos.p835(self.network, loaded)
        return {"score": torch.from_numpy(mapped), "raw": torch.from_numpy(raw)}


class _OfScores(ItemMean):
    """The scores of one network, each the mean over clips."""

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        return [float(value) for value in features["score"]]


DNSMOS: dict[str, type[_OfScores]] = {
    extractor.name: variant_of(
        _OfScores, extractor.name, extractor=extractor, values=tuple(ValueSpec(key, "higher") for key in keys)
    )
    for extractor, keys in (
        (P808Score, ("dnsmos_p808",)),
        (P835Scores, ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")),
    )
}
"""The metric of each network by name."""
