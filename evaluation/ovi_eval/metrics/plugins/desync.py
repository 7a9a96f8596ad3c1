"""DeSync: by how many seconds sound and picture are apart, as Synchformer guesses it.

Iashin et al. 2024 ("Synchformer: Efficient synchronization from sparse cues"), scored as in MMAudio's av-benchmark:
the network chooses one of 21 offsets from -2 to 2 s for the first 14 and for the last 14 segments of a clip; the
value is the mean of the two without their signs. Segments of the picture have 16 frames and begin every 8, at 25
frames a second; of the sound 0.64 s every 0.32 s.

The arithmetic here is tested. The network is that of the package av_bench and has not run where this was written:
neither it nor its weights could be had. Picture: 25 frames a second, each moment's last frame; short side to 224
(bicubic, antialiased), centre crop, [-1, 1]. Sound: 16 kHz, Hann window of 400 in an FFT of 1024 every 160, power, 128
HTK bands, log(x + 1e-6), 66 frames, (x + 4.2677393) / 9.1379948. av-benchmark resamples by torchaudio, this by FFmpeg.

Shapes: G segments, W = 2 windows, K = 21 offsets.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovi_eval.backbones import mel
from ovi_eval.clips.items import Item
from ovi_eval.common.needs import Package, imported
from ovi_eval.common.processes import CPU
from ovi_eval.common.weights import PublishedFile, find_weights
from ovi_eval.errors import UserError
from ovi_eval.metrics.base import Extractor, Features, ItemMean, ValueSpec
from ovi_eval.metrics.plugins.loading import at_rate, fill
from ovi_eval.metrics.sound_features import audible

FILE = PublishedFile(
    what="Synchformer",
    name="synchformer_state_dict.pth",
    source="https://github.com/hkchengrex/MMAudio/releases/tag/v0.1",
)
PACKAGE = Package("av_bench", "pip install git+https://github.com/hkchengrex/av-benchmark")
FPS, SAMPLE_RATE = 25.0, 16000
FRAMES, FRAME_STEP = 16, 8
SAMPLES, SAMPLE_STEP = 10240, 5120
WINDOW = 14
"""Segments that the network compares at once: 4.8 s."""
SIDE, SPECTRUM = 224, 66
MEAN, SPREAD = -4.2677393, 2 * 4.5689974


def offsets() -> Tensor:
    """The 21 offsets [K] in seconds that the network chooses among."""
    return torch.arange(-10, 11, dtype=torch.float64) / 5


def windows(segments: int) -> tuple[slice, slice]:
    """The first and the last 14 segments, which overlap or are the same in a clip below 9.28 s.

    Raises UserError for fewer than 14.
    """
    if segments < WINDOW:
        seconds = ((WINDOW - 1) * FRAME_STEP + FRAMES) / FPS
        raise UserError(
            f"it has {segments} segments of the {WINDOW} that DeSync needs: {seconds} s of picture and sound"
        )
    return slice(0, WINDOW), slice(segments - WINDOW, segments)


def desync(logits_WK: Tensor) -> float:
    """Seconds apart: the mean over windows of the likeliest offset's size."""
    return float(offsets()[logits_WK.argmax(dim=-1)].abs().mean())


class SynchformerOffsets(Extractor):
    """Feature: `logits` [2, 21], how likely each offset is in the first and in the last window."""

    name = "synchformer"
    needs = (PACKAGE, FILE)
    preprocessing: ClassVar[str] = (
        "25 fps, 224x224 centre crop by antialiased bicubic; mono 16 kHz by FFmpeg; first and last 4.8 s"
    )

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__(device)
        path = find_weights(FILE, self.name)
        network: Any = imported(PACKAGE, self.name, "av_bench.synchformer.synchformer").Synchformer()
        digest = fill(network, path, FILE)
        self.network = network.to(device)
        self.variant = f"weights {digest[:12]}, 16 kHz by FFmpeg"
        self.weights = {path.name: digest}

    def load(self, item: Item) -> tuple[Tensor, Tensor]:
        """Segments of the picture [G, 16, 3, 224, 224] uint8 and of the sound's spectrum [G, 128, 66]."""
        video = item.video()
        wave_S = audible(item, SAMPLE_RATE)
        seconds = min(video.seconds, len(wave_S) / SAMPLE_RATE)
        count = int(seconds * FPS + 1e-6)
        places_T = at_rate(torch.arange(len(video.frames_THWC)), video.times_T, FPS, count)
        frames_TCHW = torch.stack(
            [_crop(video.frames_THWC[place]) for place in places_T.tolist()] or [torch.zeros(0)]
        )
        spectra = [
            spectrum(wave_S[start : start + SAMPLES])
            for start in range(0, int(seconds * SAMPLE_RATE) - SAMPLES + 1, SAMPLE_STEP)
        ]
        segments = min(len(spectra), max(0, (count - FRAMES) // FRAME_STEP + 1))
        windows(segments)
        pictures = [frames_TCHW[g * FRAME_STEP : g * FRAME_STEP + FRAMES] for g in range(segments)]
        return torch.stack(pictures), torch.stack(spectra[:segments])

    def run(self, loaded: Any) -> Features:
        pictures, spectra = loaded
        scaled = (pictures.to(self.device).float() / 255 - 0.5) / 0.5
        # One segment at a time: [1, 1, 16, 3, 224, 224].
        seen_GTD = torch.cat([self.network.extract_vfeats(one[None, None])[0] for one in scaled])
        heard_GTD = self.network.extract_afeats(spectra.to(self.device)[None, :, None])[0]
        rows = [
            self.network.compare_v_a(seen_GTD[part][None], heard_GTD[part][None])[0]
            for part in windows(len(pictures))
        ]
        return {"logits": torch.stack(rows).float()}


class DeSync(ItemMean):
    """Seconds that sound and picture are apart, by Synchformer."""

    name = "desync"
    values = (ValueSpec("desync", "lower", "s"),)
    extractor = SynchformerOffsets

    def measure(self, features: Features, reference: Features | None = None) -> list[float]:
        return [desync(features["logits"])]


def spectrum(wave_S: Tensor) -> Tensor:
    """Synchformer's picture [128, 66] of 0.64 s of sound: 65 frames and one of zeros before scaling."""
    power_KT = (
        torch.stft(
            wave_S, 1024, hop_length=160, win_length=400, window=torch.hann_window(400), return_complex=True
        )
        .abs()
        .square()
    )
    log_BT = torch.log(_bands() @ power_KT + 1e-6)
    return (F.pad(log_BT, (0, SPECTRUM - log_BT.shape[1])) - MEAN) / SPREAD


@cache
def _bands() -> Tensor:
    """[128, 513]: triangles on the HTK mel scale from 0 to 8000 Hz, of height 1."""
    bins_K = torch.from_numpy(np.linspace(0, SAMPLE_RATE / 2, 513))
    return (
        mel.triangles(bins_K, torch.from_numpy(mel.htk_corners(128, SAMPLE_RATE / 2))).T.contiguous().float()
    )


def _crop(frame_HWC: Tensor) -> Tensor:
    """A frame's short side drawn to 224 and its middle cut out: [3, 224, 224] uint8."""
    high, wide = frame_HWC.shape[:2]
    short = min(high, wide)
    size = (int(SIDE * high / short), int(SIDE * wide / short))
    drawn_CHW = F.interpolate(frame_HWC.permute(2, 0, 1)[None], size=size, mode="bicubic", antialias=True)[0]
    top, left = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return drawn_CHW[:, top : top + SIDE, left : left + SIDE]
